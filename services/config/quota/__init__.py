"""Leases slices of tenants' quotas and spend budgets to routers, out of accounts in etcd.

`servicer.QuotaLeaseServicer` is the entrance, `ledger.lease` the decision. Which quotas are valid belongs to
the config's rules.
"""
