"""Last known good state on disk: sealed files in two generations, signed by the config service.

What the files hold is up to the service that writes them. docs/formats/last-known-good.md specifies every byte.
Entrances: `generations.py` for the files, `writer.py` to keep one up to date.
"""
