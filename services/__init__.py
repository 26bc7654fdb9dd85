"""tenantry's own programs: the mesh's services and the `tenantry` command.

Imports run downwards: `cli`, `local`, then `edge`, `router`, `config` and `audit` side by side, then `common`. Packages
side by side never import one another: services meet over gRPC only. Entrances: the `main.py` of `cli`, `router`,
`config` and `audit`.
"""
