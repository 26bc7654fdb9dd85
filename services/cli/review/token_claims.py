"""What a token says, as far as its bearer can read it. Nothing is verified here: whoever is called does that."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any


def read_claims(token: str) -> dict[str, Any]:
    """The claims of a signed token; empty for what is none."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}
