"""How large a request may be, where several services have to agree."""

from __future__ import annotations

MAX_INPUT_BYTES = 768 << 10
"""The most text of one request that a tenant's config may allow, in UTF-8 bytes.

What binds is the audit log, which takes 1 MiB of JSON for a prompt: this much text beside the longest system prompt
(16 KiB, six bytes of JSON for each at worst) and the most turns (4,096, at 34 bytes of JSON each). Text that JSON has
to escape can still be too long for the log; the router refuses it with the same reason, INVALID_FIELD, by the size it
has there. A router takes messages of 4 MiB, the edge holds 5 MiB: neither binds.
"""
