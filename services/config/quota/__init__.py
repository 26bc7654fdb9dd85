"""Quotas: what is left of them, and slices of them for routers."""
