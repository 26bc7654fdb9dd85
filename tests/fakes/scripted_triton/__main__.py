"""`python -m tests.fakes.scripted_triton --listen unix:/path`: a scripted Triton as a process."""

from __future__ import annotations

import argparse
import asyncio
import signal

from tests.fakes.scripted_triton.script import Script
from tests.fakes.scripted_triton.server import ScriptedTriton


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="a Triton that runs no model")
    parser.add_argument("--listen", required=True, help="unix:/path or 127.0.0.1:port")
    parser.add_argument("--script", default="{}", help="fields of Script, as JSON")
    parser.add_argument("--adapter-slots", type=int, default=8)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.listen, Script.from_json(arguments.script), arguments.adapter_slots))


async def serve(listen: str, script: Script, adapter_slots: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with ScriptedTriton(script, adapter_slots=adapter_slots, listen=listen):
        await stopped.wait()


if __name__ == "__main__":
    main()
