"""Proofs about a log: entries, Merkle trees (RFC 6962), signed notes (C2SP). Pure.

Only bytes and hashes: no file, no key but the ones passed in, and nothing that is encrypted.
The service writes and the offline verifier checks with the same modules. Entrances: `merkle.py` for trees and proofs,
`signed_note.py` for checkpoints, `entry.py` for an entry's bytes.
"""
