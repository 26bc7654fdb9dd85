"""Checks and takes the steps of a plan, one call after another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from tenantry.config.v1.tenant_pb2 import TenantState

from services.cli.clients.admin import AdminClient
from services.cli.clients.names import tenant_name
from services.cli.declarative.declared import FIELDS
from services.cli.declarative.tenant_plan import Action, Step
from services.cli.terminal.failure import next_step
from services.common.command_errors import CommandError
from services.common.errors import (
    AbortedError,
    AlreadyExistsError,
    Error,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)

# These errors concern one step. Any other, such as an unreachable mesh, concerns all of them.
_OF_ONE_STEP = (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
_CHANGED_MEANWHILE = (AbortedError, AlreadyExistsError, NotFoundError)


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was taken."""

    step: Step
    config_version: int
    """0 for a deletion."""
    revision: int


class StepsClient:
    """Takes steps, all with the same reason."""

    def __init__(self, admin: AdminClient, reason: str) -> None:
        self._admin = admin
        self._reason = reason

    async def check(self, steps: Sequence[Step]) -> None:
        """Have the service check every step, changing nothing.

        Raises:
            CommandError: names every violation of every step.
            Error: the service did not answer.
        """
        wrong: list[tuple[str, str]] = []
        for step in steps:
            try:
                await self._check(step)
            except _OF_ONE_STEP as error:
                wrong += _complaints(step, error)
        if wrong:
            raise CommandError(
                "the plan is refused; nothing was changed.", "Correct what is named and repeat.", wrong
            )

    async def _check(self, step: Step) -> None:
        if step.action is Action.CREATE or step.action is Action.UPDATE:
            await self._write(step, validate_only=True)
        elif step.action is Action.DELETE:
            await self._check_deletion(step)

    async def _check_deletion(self, step: Step) -> None:
        assert step.live is not None
        try:
            await self._admin.delete_tenant(step.tenant_id, etag=step.live.etag, validate_only=True)
        except FailedPreconditionError:
            if step.live.state == TenantState.TENANT_STATE_SUSPENDED:
                raise
            # The service refuses because the tenant has to be suspended first, which `take` does. It does not get
            # as far as the pools, so look for one that would be in the way then.
            for pool in await self._admin.catalog.list_pools():
                if pool.dedicated_to == step.live.name:
                    raise FailedPreconditionError(f"{pool.name} is dedicated to the tenant") from None

    async def take(self, steps: Sequence[Step]) -> AsyncIterator[Done]:
        """Take the steps in order, each with the etag of the compared tenant. Yields each step once it is done.

        Raises:
            CommandError: a step failed. Names it, the steps taken before and those not taken.
        """
        to_take = [step for step in steps if step.action is not Action.UNCHANGED]
        for number, step in enumerate(to_take):
            try:
                done = await self._take(step)
            except Error as error:
                raise _stopped(error, step, to_take[:number], to_take[number + 1 :]) from None
            yield done

    async def _take(self, step: Step) -> Done:
        if step.action is Action.DELETE:
            return await self._delete(step)
        return await self._write(step, validate_only=False)

    async def _write(self, step: Step, *, validate_only: bool) -> Done:
        if step.action is Action.CREATE:
            tenant = await self._admin.create_tenant(
                step.tenant_id,
                step.wanted.config,
                display_name=step.wanted.display_name,
                reason=self._reason,
                validate_only=validate_only,
            )
        else:
            tenant = await self._admin.update_tenant(
                step.wanted, paths=FIELDS, reason=self._reason, validate_only=validate_only
            )
        return Done(step, tenant.config_version, tenant.revision)

    async def _delete(self, step: Step) -> Done:
        assert step.live is not None
        etag = step.live.etag
        if step.live.state != TenantState.TENANT_STATE_SUSPENDED:
            suspended = await self._admin.suspend_tenant(step.tenant_id, etag=etag, reason=self._reason)
            etag = suspended.etag
        revision = await self._admin.delete_tenant(step.tenant_id, etag=etag, reason=self._reason)
        return Done(step, 0, revision)


def _complaints(step: Step, error: Error) -> list[tuple[str, str]]:
    where = step.source or tenant_name(step.tenant_id)
    if isinstance(error, InvalidArgumentError) and error.violations:
        return [
            # The paths in a file do not begin with `tenant.`.
            (f"{where}: {violation.field.removeprefix('tenant.')}", violation.description)
            for violation in error.violations
        ]
    return [(where, error.message)]


def _stopped(error: Error, step: Step, taken: Sequence[Step], left: Sequence[Step]) -> CommandError:
    name = tenant_name(step.tenant_id)
    rest = [("applied", _ids(taken)), ("not applied", _ids([step, *left]))]
    if isinstance(error, _CHANGED_MEANWHILE):
        return CommandError(
            f"{name}: another operator changed it after the plan was made; stopped there.",
            "The applied changes stay. Run the command again: it makes a new plan from the present state.",
            rest,
        )
    if not isinstance(error, _OF_ONE_STEP):
        # A call without an answer may have been carried out, or may still be.
        rest = [("applied", _ids(taken)), ("not known", _ids([step])), ("not applied", _ids(left))]
    return CommandError(
        f"{name}: {error.message or 'the server gave no reason'}; stopped there.",
        f"The applied changes stay. {next_step(error)} Then run the command again: it makes a new plan.",
        rest,
    )


def _ids(steps: Sequence[Step]) -> str:
    return ", ".join(step.tenant_id for step in steps) or "nothing"
