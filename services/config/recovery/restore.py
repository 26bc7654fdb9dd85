"""Keeps ids unique after etcd was restored from a backup; run it before the config service starts.

    python -m services.config.recovery.restore --state-dir DIR --etcd-target TARGET

Raises the restore epoch above every epoch that was ever in force, and the counter of ordinals above every ordinal that
was ever given out. docs/operations/backup-and-restore.md has the whole procedure. A second run skips numbers and does
no harm.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tenantry.config.v1 import stored_pb2

from services.common.errors import Error
from services.common.rpc.channel import open_channel
from services.common.rpc.tls import TLSMaterial
from services.config.etcd import keys as etcd_keys
from services.config.etcd.client import EtcdClient
from services.config.etcd.store import CompactedError, ConfigStore, Expect, Stored
from services.config.recovery.allocation_marks import (
    FILE,
    Allocated,
    MarksDamagedError,
    read_marks,
    write_marks,
)
from services.config.state.allocation import MAX_EPOCH

_EPOCH_PLACE = 32


class RestoreError(Exception):
    """Nothing was raised; the message says what is missing."""


async def raise_allocations(store: ConfigStore, marks_path: Path, known: Allocated) -> Allocated:
    """Raise epoch and ordinals, on disk first and then in the store; returns what is in force now.

    Args:
        store: the restored etcd; nothing else may write to it.
        marks_path: the file of marks of this config service.
        known: the highest numbers known to have been given out.

    Raises:
        RestoreError: no epoch is left, or another writer came in between.
        StoreUnavailableError: etcd does not answer.
    """
    epoch_key, ordinal_key = etcd_keys.epoch_key(), etcd_keys.ordinal_counter_key()
    epoch, ordinal = await store.get(epoch_key), await store.get(ordinal_key)
    highest = known.or_higher(Allocated(_number(ordinal), _number(epoch)))
    highest = highest.or_higher(await _in_use(store))
    if highest.epoch >= MAX_EPOCH:
        raise RestoreError(f"{MAX_EPOCH} restores are the most there may be")
    raised = Allocated(highest.ordinal, highest.epoch + 1)  # proven: restore-raises-the-epoch
    # On disk first: if this process ends in between, the next run starts above it.
    write_marks(marks_path, raised)
    written = await store.write(
        [Expect(key, stored.mod_revision if stored else 0) for key, stored in _pairs(epoch, ordinal)],
        {epoch_key: str(raised.epoch).encode(), ordinal_key: str(raised.ordinal).encode()},
    )
    if written is None:
        raise RestoreError("something else writes to etcd: stop every config service, and run this again")
    return raised


async def _in_use(store: ConfigStore) -> Allocated:
    """The highest numbers in the backup itself."""
    found = Allocated()
    tenants, _ = await store.list(etcd_keys.TENANTS)
    for value in tenants.values():
        found = found.or_higher(Allocated(ordinal=stored_pb2.StoredTenant.FromString(value.value).ordinal))
    adapters, _ = await store.list(f"{etcd_keys.LIVE}adapters/")
    for value in adapters.values():
        for version in stored_pb2.StoredAdapter.FromString(value.value).versions:
            for rendition in version.renditions:
                epoch = rendition.lora_id >> _EPOCH_PLACE & MAX_EPOCH
                found = found.or_higher(Allocated(rendition.lora_id >> 40, epoch))
    return found


def _pairs(epoch: Stored | None, ordinal: Stored | None) -> Sequence[tuple[str, Stored | None]]:
    return (etcd_keys.epoch_key(), epoch), (etcd_keys.ordinal_counter_key(), ordinal)


def _number(stored: Stored | None) -> int:
    return int(stored.value) if stored else 0


def known_marks(paths: Sequence[Path], at_least: Allocated | None) -> Allocated:
    """The highest marks of several files.

    Raises:
        RestoreError: there is none and no lower bound was given, or one of them is damaged.
    """
    found = at_least
    for path in paths:
        try:
            marks = read_marks(path)
        except MarksDamagedError:
            raise RestoreError(f"{path} is damaged: give another copy of it with --marks") from None
        if marks is not None:
            found = marks.or_higher(found or marks)
    if found is None:
        raise RestoreError(
            f"there is no {paths[0]}: give a copy with --marks, or --ordinal-at-least and --epoch-at-least"
        )
    return found


async def _restore(arguments: argparse.Namespace) -> Allocated:
    own = arguments.state_dir / FILE
    given = arguments.ordinal_at_least, arguments.epoch_at_least
    at_least = None if None in given else Allocated(*given)
    paths = [own, *arguments.marks]
    if at_least is not None:
        # The operator gave the numbers: a damaged file of our own is not needed.
        paths = [path for path in paths if path != own or _readable(path)]
    known = known_marks(paths or [own], at_least)
    tls = TLSMaterial(*arguments.tls) if arguments.tls else None
    channel = open_channel(arguments.etcd_target, tls)
    try:
        return await raise_allocations(EtcdClient(channel), own, known)
    finally:
        await channel.close()


def _readable(path: Path) -> bool:
    try:
        return read_marks(path) is not None
    except MarksDamagedError:
        return False


def main(words: Sequence[str] | None = None) -> int:
    """Read the arguments, raise the numbers and print them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.config.recovery.restore")
    parser.add_argument("--state-dir", type=Path, required=True, help="the config service's state directory")
    parser.add_argument("--etcd-target", required=True, help="gRPC target of the restored etcd")
    parser.add_argument(
        "--marks", type=Path, action="append", default=[], help=f"{FILE} of another config service, or a copy"
    )
    parser.add_argument("--ordinal-at-least", type=int, help=f"where no {FILE} is left: the highest ordinal")
    parser.add_argument("--epoch-at-least", type=int, help=f"where no {FILE} is left: the highest epoch")
    parser.add_argument(
        "--tls", type=Path, nargs=3, metavar=("CERTIFICATE", "KEY", "CA"), help="PEM files, off this host"
    )
    try:
        raised = asyncio.run(_restore(parser.parse_args(words)))
    except RestoreError as error:
        sys.stderr.write(f"nothing was raised: {error}\n")
        return 1
    except (Error, CompactedError) as error:
        sys.stderr.write(f"etcd does not answer as it should ({type(error).__name__}): run this again\n")
        return 1
    sys.stdout.write(f"restore epoch {raised.epoch}; the next ordinal is {raised.ordinal + 1}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
