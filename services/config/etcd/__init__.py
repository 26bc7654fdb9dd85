"""The only access to etcd: reads, writes, leases and the watch, over etcd's own gRPC API.

It knows keys and bytes, not what they mean: no config, no tenants. `client` reads and writes, `watch` follows; other
folders implement `follower.Follower` and take their keys from `keys`.
"""
