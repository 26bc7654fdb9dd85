"""The only access to etcd: stubs, channel and watch loop."""
