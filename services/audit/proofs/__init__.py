"""Proofs about a log: entries, Merkle trees (RFC 6962), signed notes (C2SP). Pure.

Only bytes and hashes: no file, no key but the ones passed in, and nothing that is encrypted.
The service writes with these modules and the offline verifier checks with the same ones.
"""
