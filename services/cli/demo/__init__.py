"""The demo of `tenantry up`: three tenants with keys and adapters, a first answer each, and one verified log.

Provisions through the admin RPCs, like any operator. Processes, ports and certificates belong in `services.local`.
Entrance: `run.run`.
"""
