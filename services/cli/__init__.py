"""The `tenantry` command: subcommands in `commands`, and the folders they share.

The only package that talks to a terminal. It reaches a mesh as any client does; starting processes belongs in
`services.local`, verifying bundles in `services.audit.bundle`. Entrance: `main.main`, which lists the subcommands.
"""
