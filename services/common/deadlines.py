"""Deadlines on which several services have to agree."""

from __future__ import annotations

MAX_TIMEOUT_SECONDS = 3600
"""The longest timeout a tenant's config may allow a request; the edge holds calls open a little longer."""
