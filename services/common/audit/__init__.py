"""The writing side of the audit log: entries, and the append stream to the audit service.

Nothing here reads a log or holds a key; that is the audit service's.
Entrance: `writer.py`.
"""
