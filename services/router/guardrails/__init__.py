"""Tenants' guardrails: what callers may say and what models may answer."""
