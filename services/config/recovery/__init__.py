"""Starts without etcd from a file, and keeps ids unique after etcd was restored from a backup.

`last_known_good` and `etcd_identity` follow the watch, `allocation_marks` stands in front of the store, `restore` is a
command of its own. No edit begins here.
"""
