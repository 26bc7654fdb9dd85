"""Names and page tokens of another tenant, as somebody writes them who is not let in by the plain ones."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable

from tests.fakes.two_tenants import OURS, Target

_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    str.upper,
    str.title,
    lambda name: name + "/",
    lambda name: "/" + name,
    lambda name: name + " ",
    lambda name: " " + name,
    lambda name: name + "\x00",
    lambda name: name + "\n",
    lambda name: name.replace("o", "%6F").replace("e", "%65"),
    lambda name: name.replace("/", "%2F"),
    lambda name: name.replace("/", "//"),
    lambda name: name.replace("tenants/", "tenants/./"),
    lambda name: name.replace("tenants/", f"tenants/{OURS}/../"),
    lambda name: name.replace("e", "\u0435"),
    lambda name: "".join(chr(ord(one) + 0xFEE0) if one.isalpha() else one for one in name),
    lambda name: name + "\u200b",
    lambda name: name.replace("tenants/", "TENANTS/"),
    lambda name: f"//config.tenantry/{name}",
    lambda name: name + "*",
)


def name_of(rng: random.Random) -> Callable[[Target], str]:
    """The other tenant's name, or its uid in the name's place, in some spelling; plainly in half of the cases."""
    spelling = rng.choice(_SPELLINGS) if rng.random() < 0.5 else _SPELLINGS[0]
    by_uid = rng.random() < 0.15
    return lambda target: spelling(f"tenants/{target.tenant_uid if by_uid else target.tenant_id}")


def token_of(rng: random.Random) -> Callable[[Target], str]:
    """A page token of one of the other tenant's lists: as it is, forged, or damaged."""
    field = rng.choice(("tenants_token", "keys_token", "adapters_token", "versions_token"))
    how = rng.choice(("as it is", "flipped", "cut", "forged", "tail"))
    place = rng.random()
    kind = rng.choice(("tenants:", f"keys:tenants/{OURS}", f"adapters:tenants/{OURS}", "models", "pools"))

    def token(target: Target) -> str:
        given = str(getattr(target, field))
        # Where a flip falls must not depend on whose token it is.
        at = int(place * 10)
        if how == "flipped":
            return given[:at] + ("A" if given[at] != "A" else "B") + given[at + 1 :]
        if how == "cut":
            return given[: at + 4]
        if how == "tail":
            return given + "AAAA"
        if how == "forged":
            return base64.urlsafe_b64encode(f"{kind}\ntenants/{target.tenant_id}".encode()).decode()
        return given

    return token
