"""Starting without etcd, and after etcd was restored from a backup."""
