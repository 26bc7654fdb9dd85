"""Keys and envelopes: root KEK, tenant KEKs, data keys (DEKs), the service's signing keys. Pure but for its key files.

Secrets of the audit service are made and opened here and nowhere else. They never leave the process.
Entrances: `keyset.py` for one log's keys, `signing.py` for the service's own; ADR 0005 says why.
"""
