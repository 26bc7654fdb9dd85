"""What a caller with a key, or a stranger, may do to an edge: HTTP/2 written by hand, which no client library sends.

`python -m tests.fakes.attackers KIND PORT CA TOKEN SECONDS` runs one attack as a process of its own, as the lowest
priority of the machine; it prints how often its calls ended, by gRPC status.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import ssl
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

GENERATE = "/tenantry.inference.v1.InferenceService/Generate"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
UNFINISHED_BYTES = 4_900_000
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_BYTES = 16_384


def _text(value: bytes) -> bytes:
    """HPACK: a text in plain bytes (RFC 7541, section 5.2)."""
    size = len(value)
    if size < 127:
        return bytes([size]) + value
    size, length = size - 127, [127]
    while size >= 128:
        length.append(size % 128 + 128)
        size //= 128
    return bytes([*length, size]) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _headers(path: str, token: str) -> bytes:
    fields = {
        ":method": "POST", ":scheme": "https", ":authority": "localhost", ":path": path,
        "content-type": "application/grpc", "te": "trailers", "authorization": f"Bearer {token}",
    }  # fmt: skip
    return b"".join(b"\x10" + _text(name.encode()) + _text(value.encode()) for name, value in fields.items())


class Streams:
    """One connection with as many streams as it may have; each sends a part of a message and no end."""

    def __init__(self, path: str, token: str, streams: int, body: bytes) -> None:
        self._request = _headers(path, token)
        self._streams = streams
        self._body = body
        self._left: dict[int, tuple[bytes, int]] = {}
        """Of each open stream: what is not sent yet, and its window."""
        self._window = 65_535
        self._initial_window = 65_535
        self._next = 1
        self.begun = 0
        self.ended = 0
        self.opened = asyncio.Event()
        """All streams were begun, and those that the other side ended were noticed once."""

    async def run(self, port: int, ca: str) -> None:
        """Open streams, send what the windows allow, and open others a second after they were ended."""
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        reopening = asyncio.create_task(self._reopen(writer))
        try:
            writer.write(_PREFACE + _frame(_SETTINGS, 0, 0))
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                self._take(head[3], head[4], int.from_bytes(head[5:], "big"), payload, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            reopening.cancel()
            writer.close()

    async def _reopen(self, writer: asyncio.StreamWriter) -> None:
        while True:
            while len(self._left) < self._streams:
                number, self._next = self._next, self._next + 2
                writer.write(_frame(_HEADERS, 4, number, self._request))
                self._left[number] = (self._body, self._initial_window)
                self.begun += 1
                self._send(number, writer)
            await asyncio.sleep(1)
            self.opened.set()

    def _send(self, number: int, writer: asyncio.StreamWriter) -> None:
        data, window = self._left[number]
        while size := min(len(data), window, self._window, _FRAME_BYTES):
            writer.write(_frame(_DATA, 0, number, data[:size]))
            data, window = data[size:], window - size
            self._window -= size
        self._left[number] = (data, window)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, writer: asyncio.StreamWriter) -> None:
        if kind == _SETTINGS and not flags & 1:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at : at + 2], "big") == 4:
                    self._initial_window = int.from_bytes(payload[at + 2 : at + 6], "big")
            writer.write(_frame(_SETTINGS, 1, 0))
        elif kind == _PING and not flags & 1:
            writer.write(_frame(_PING, 1, 0, payload))
        elif kind == _WINDOW:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self._window += more
                for number in list(self._left):
                    self._send(number, writer)
            elif stream in self._left:
                data, window = self._left[stream]
                self._left[stream] = (data, window + more)
                self._send(stream, writer)
        elif (kind == _RST or (kind in (_HEADERS, _DATA) and flags & 1)) and stream in self._left:
            del self._left[stream]
            self.ended += 1


def message_of(size: int) -> bytes:
    """The beginning of a gRPC message: all but its last byte."""
    return b"\0" + size.to_bytes(4, "big") + bytes(size - 1)


def pieces(size: int) -> bytes:
    """A serialised request of so many bytes: one message of empty pieces of content."""
    inner = b"\x12\x00" * ((size - 16) // 2)
    outer = b"\x0a" + _varint(len(inner)) + inner
    return b"\x12" + _varint(len(outer)) + outer


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def many_pieces(
    port: int, ca: str, token: str, seconds: float, size: int, compressed: bool, threads: int
) -> Counter[str]:
    """Send requests of many pieces from so many threads; counts the statuses."""
    payload, statuses, until = pieces(size), Counter[str](), time.monotonic() + seconds
    credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())
    lock = threading.Lock()

    def send() -> None:
        with grpc.secure_channel(
            f"localhost:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            call: Any = channel.unary_unary(GENERATE)
            compression = grpc.Compression.Gzip if compressed else None
            while time.monotonic() < until:
                try:
                    call(
                        payload,
                        timeout=15,
                        metadata=(("authorization", f"Bearer {token}"),),
                        compression=compression,
                    )
                    code = "OK"
                except grpc.RpcError as error:
                    code = error.code().name
                with lock:
                    statuses[code] += 1

    workers = [threading.Thread(target=send) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return statuses


class Silence:
    """Connections that say nothing, every second one after its TLS handshake; closed ones are opened again."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.opened = self.closed = self.refused = 0

    async def run(self, port: int, ca: str, again: bool = True) -> None:
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols(["h2"])
        # As many handshakes at once as one attacker has patience for.
        handshakes = asyncio.Semaphore(64)
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._one(port, context if number % 2 else None, handshakes, again))

    async def _one(
        self, port: int, context: ssl.SSLContext | None, handshakes: asyncio.Semaphore, again: bool
    ) -> None:
        while True:
            named = "localhost" if context else None
            try:
                async with handshakes:
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", port, ssl=context, server_hostname=named
                    )
            except (OSError, ssl.SSLError):
                self.refused += 1
                await asyncio.sleep(0.1)
            else:
                self.opened += 1
                try:
                    with suppress(OSError, ssl.SSLError):
                        await reader.read()
                finally:
                    self.closed += 1
                    writer.transport.abort()
            if not again:
                return


async def held_streams(
    port: int, ca: str, token: str, seconds: float, path: str, connections: int, streams: int, body: bytes
) -> dict[str, int]:
    """Hold streams open for so long."""
    held = [Streams(path, token, streams, body) for _ in range(connections)]
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            # A connection that was closed is opened again.
            await asyncio.gather(*(_for_ever(one, port, ca) for one in held))
    return {"begun": sum(one.begun for one in held), "ended": sum(one.ended for one in held)}


async def _for_ever(streams: Streams, port: int, ca: str) -> None:
    while True:
        await streams.run(port, ca)
        streams._left.clear()
        await asyncio.sleep(0.2)


def main(kind: str, port: int, ca: str, token: str, seconds: float) -> object:
    """Run one attack."""
    os.nice(19)
    if len(os.sched_getaffinity(0)) == 1:
        # The mesh and its victim have one processor of two; the attackers, who would be elsewhere, have the other.
        os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    match kind:
        case "pieces" | "gzipped" | "fitting":
            size = (1 << 20) if kind == "fitting" else 4_190_000
            return many_pieces(port, ca, token, seconds, size, kind == "gzipped", threads=48)
        case "unfinished":
            body = message_of(UNFINISHED_BYTES)
            return asyncio.run(held_streams(port, ca, token, seconds, GENERATE, 4, 75, body))
        case "idle":
            return asyncio.run(held_streams(port, ca, token, seconds, GENERATE, 20, 100, b""))
        case "reflection":
            return asyncio.run(held_streams(port, ca, token, seconds, REFLECT, 20, 100, b""))
        case "silence":
            silence = Silence(10_000)
            with suppress(TimeoutError):
                asyncio.run(asyncio.wait_for(silence.run(port, ca), seconds))
            return {"opened": silence.opened, "closed": silence.closed, "refused": silence.refused}
    raise ValueError(kind)


if __name__ == "__main__":
    kind, port, ca, token, seconds = sys.argv[1:]
    sys.stdout.write(json.dumps(main(kind, int(port), ca, token, float(seconds))) + "\n")
