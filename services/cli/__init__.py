"""The `tenantry` command: one file a subcommand."""
