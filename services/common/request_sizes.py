"""How large a request may be, where several services have to agree."""

from __future__ import annotations

MAX_INPUT_BYTES = 768 << 10
"""The most text of one request that a tenant's config may allow, in UTF-8 bytes.

What binds is the audit log, which takes 1 MiB of JSON for a prompt: this much text beside the longest system prompt
(16 KiB, six bytes of JSON for each at worst) and the most turns (4,096, at 34 bytes of JSON each). Text that JSON has
to escape can still be too long for the log; the router refuses it with the same reason, INVALID_FIELD, by the size it
has there. It is below `MAX_REQUEST_BYTES`.
"""
MAX_REQUEST_BYTES = 1 << 20
"""The largest request for an answer that a router takes, serialised.

It has room for the most text (768 KiB) in the most pieces (8,192, and 4,096 turns, at no more than ten bytes each),
and for the most stop sequences, notes and names in the longest characters (60 KiB).
"""
RECEIVED_BYTES = MAX_REQUEST_BYTES + (256 << 10)
"""Up to here a router answers itself. A larger message ends in gRPC, which names this number and no reason.

gRPC compares what a compressed message becomes, and stops decompressing there.
"""
