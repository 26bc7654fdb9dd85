"""The reviewer's side of the command: grants, pinned keys, bundles as folders on disk.

Checks of a bundle are not here but in `services.audit.bundle`; calls are made by `services.cli.clients.review`.
Entrance: `fetch.py` exports a log into a folder.
"""
