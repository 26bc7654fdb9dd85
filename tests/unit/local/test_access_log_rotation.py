"""The rotation of Envoy's access log goes on whatever Envoy answers, and its end is not silent."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from services.local import access_log, mesh
from services.local.layout import StateLayout
from services.local.mesh import MeshOptions
from tests.fakes.mutants import changed, without


async def reopened(module, folder, answer: bytes) -> bool:
    async def admin(_reader, writer):
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(admin, folder / "admin.sock"):
        answered: bool = await module._reopened(folder / "admin.sock")
        return answered


@pytest.mark.parametrize(
    ("answer", "whether"), [(b"HTTP/1.1 200 OK\r\n\r\n", True), (b"x" * (1 << 20), False), (b"", False)]
)
async def test_any_answer_of_envoy_is_an_answer(tmp_path, answer, whether):
    assert await reopened(access_log, tmp_path, answer) is whether


async def test_that_test_fails_where_a_long_answer_ends_the_rotation(tmp_path):
    broken = changed(access_log, "a-long-answer-is-no-end", "raise")
    with pytest.raises(ValueError, match="limit"):
        await reopened(broken, tmp_path, b"x" * (1 << 20))


async def shown_at_the_end(module, folder, end) -> list[str]:
    async def rotation():
        if isinstance(end, Exception):
            raise end
        await asyncio.Event().wait()

    shown: list[str] = []
    running = module.LocalMesh(
        StateLayout(folder, folder, folder),
        MeshOptions(show=lambda name, line: shown.append(f"{name}: {line}")),
    )
    task = asyncio.create_task(rotation())
    task.add_done_callback(running._rotation_ended)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    return shown


async def test_the_end_of_the_rotation_is_shown_and_a_stop_is_not(tmp_path):
    (line,) = await shown_at_the_end(mesh, tmp_path, RuntimeError("secret"))
    assert line == "mesh: Envoy's access log is not rotated any more, and grows: RuntimeError"
    assert await shown_at_the_end(mesh, tmp_path, SimpleNamespace()) == []


async def test_that_test_fails_where_the_end_of_the_rotation_is_silent(tmp_path):
    broken = without(mesh, "the-end-of-the-rotation-shows")
    assert await shown_at_the_end(broken, tmp_path, RuntimeError()) == []
