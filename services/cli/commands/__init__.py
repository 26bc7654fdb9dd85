"""The subcommands; one module each, imported only when it is called."""
