"""Lists a tenant's models, page by page."""

from __future__ import annotations

import base64
import binascii

from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import FieldViolation, InvalidArgumentError
from services.router.snapshot.model import Tenant

_DEFAULT_PAGE_SIZE = 100
_MAX_PAGE_SIZE = 1000


def list_models(tenant: Tenant, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
    """A page of the tenant's aliases, sorted; a token says after which one the next page begins.

    Raises:
        InvalidArgumentError: the page size is negative, or the token is not one of this listing.
    """
    if request.page_size < 0:
        raise InvalidArgumentError([FieldViolation("page_size", "must not be negative")])
    size = min(request.page_size or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)
    after = _decode(request.page_token)
    aliases = [alias for alias in sorted(tenant.targets) if after is None or alias > after]
    models = []
    for alias in aliases[:size]:
        target = tenant.targets[alias]
        models.append(
            pb.Model(
                model=alias,
                base_model=target.base_model.name,
                adapter=target.adapter,
                context_tokens=target.base_model.context_tokens,
                is_default=alias == tenant.default_alias,
            )
        )
    more = len(aliases) > size
    return pb.ListModelsResponse(models=models, next_page_token=_encode(aliases[size - 1]) if more else "")


def _encode(alias: str) -> str:
    return base64.urlsafe_b64encode(alias.encode()).decode()


def _decode(token: str) -> str | None:
    if not token:
        return None
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        raise InvalidArgumentError([FieldViolation("page_token", "not a token of this listing")]) from None
