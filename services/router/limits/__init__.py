"""Limits what tenants and keys may use: request rate, concurrency, tokens a minute, and the size of one request.

Entrances: `tenant_limiter.TenantLimiter` and `request_size`; `limited.limited_of` says what limits a request. Pure:
time is passed in. Quotas and spend budgets, which outlast a process, live in `quota`.
"""
