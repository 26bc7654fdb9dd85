"""Leases slices of tenants' quotas to routers, out of accounts in etcd.

`servicer.QuotaLeaseServicer` is the entrance, `ledger.lease` the decision. What a quota is belongs to the config's
rules.
"""
