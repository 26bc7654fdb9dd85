"""The router: one request from identity to last token.

A request goes through `request`, which asks `guardrails`, `text`, `pool`, `backends` and `audit`, in this order;
`stages` is what is known of it after each step. `snapshot` keeps the config, `quota` slices of quotas; entrance:
`main`. Nothing here reaches etcd, and the last known good config is all that is written to disk.
"""
