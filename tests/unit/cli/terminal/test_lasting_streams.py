"""Writing on when nobody reads any more."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import os, sys
from services.cli.terminal.lasting_streams import lasting_streams
from services.cli.terminal.output import Output

with lasting_streams():
    output = Output(json=False)
    sys.stdin.readline()
    for _ in range(1000):
        output.line("a line of the result " * 10)
        output.note("a line beside it " * 10)
    output.record({"step": "stop"})
open(sys.argv[1], "w").write("done")
"""


def test_a_reader_that_goes_ends_nothing(tmp_path):
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "done")],
        stdin=subprocess.PIPE, stdout=writing, stderr=writing,
    )  # fmt: skip
    os.close(writing)
    os.close(reading)
    process.communicate(b"go\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "done").read_text() == "done"
