"""Limits what a tenant may use: request rate, concurrency, bytes, tokens a minute.

Entrance: `tenant_limiter.TenantLimiter`. Pure: time is passed in. Quotas, which outlast a process, live in `quota`.
"""
