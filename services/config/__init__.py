"""The config service: the only client of etcd. It edits tenants' config and delivers it to routers.

A change goes one way: admin, rules, intents, etcd; the watch brings it back through state to discovery. Nothing here is
on the path of a request. `main` puts all of it together.
"""
