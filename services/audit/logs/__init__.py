"""The logs: appending in memory, segments on disk, folding between them, and recovery after a stop. Pure.

A log's journal is below, in `storage`; keys are in `keys`. Nothing here knows gRPC or the event loop.
Entrance: `store.py`. `tenant_log.py` is one log in memory; docs/formats/audit-log.md specifies the files.
"""
