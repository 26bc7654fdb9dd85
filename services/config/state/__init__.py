"""The config in force, in memory, and the values that etcd holds."""
