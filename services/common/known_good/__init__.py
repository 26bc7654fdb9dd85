"""Last known good state on disk: sealed files in two generations, signed by the config service."""
