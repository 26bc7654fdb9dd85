"""Durable files below the logs: the commit journal, its frames and recovery, the claim on the state directory. Pure.

Nothing here knows which tenant an entry belongs to, and nothing here decrypts.
Entrances: `journal.py` to write, `recovery.py` to read back. docs/formats/audit-log.md specifies every byte.
"""
