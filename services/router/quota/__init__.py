"""Spends quotas over long windows out of slices that the config service leases to this router.

Entrance: `ledger.QuotaLedger`, which `client.QuotaClient` implements; `slices` is the pure arithmetic of one slice.
Limits of rate, concurrency and tokens a minute are `limits`.
"""
