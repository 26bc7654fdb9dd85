"""The config service: the only etcd client; admin RPCs, watch, snapshots."""
