"""The router: one request from identity to last token.

A request goes through `request`, which asks `guardrails` and `text`, begins its entry in `audit`, then asks `pool` and
`backends`, and ends the entry; `stages` holds its state after each step. `snapshot` keeps the config, `quota` slices of
quotas; entrance: `main`. Nothing here reaches etcd, and the last known good config is all that is written to disk.
"""
