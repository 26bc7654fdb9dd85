"""Writes what requests leave in their tenants' audit logs: admit, outcome, counted refusals.

Entrance: `recorder.AuditRecorder.start`, and `refusals.RefusalLog` for what is never admitted. Entries go out
through `services.common.audit`; nothing here knows keys, files or proofs.
"""
