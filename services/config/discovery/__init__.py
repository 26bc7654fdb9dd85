"""Delivers the config in force to routers, and knows which router has applied what.

`servicer.DiscoveryServicer` is the entrance for routers, `registry.RouterRegistry` for the admin RPCs. It changes no
config.
"""
