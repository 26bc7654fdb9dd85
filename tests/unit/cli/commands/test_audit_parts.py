"""`tenantry audit verify` says of a good bundle what it holds and shows, so that a part is not taken for the whole."""

from __future__ import annotations

import dataclasses
import json

from services.audit.bundle.manifest import Window
from tests.unit.audit.bundle.forgery import DEK_ID, a_log, pinned, write


def verified(shell, tmp_path, *options, **made) -> str:
    folder = write(tmp_path / "bundle", a_log("one", "two", "two!"), **made)
    keys = pinned()
    pin = {
        "tenant_uid": "a",
        "log_keys": [str(key) for key in keys.log],
        "manifest_keys": [str(key) for key in keys.manifest],
    }
    (tmp_path / "pin.json").write_text(json.dumps(pin))
    result = shell("audit", "verify", str(folder), "--keys", str(tmp_path / "pin.json"), *options)
    assert result.exit_code == 0, result.output
    return str(result.output)


def test_a_whole_bundle_hides_nothing(shell, tmp_path):
    said = verified(shell, tmp_path)
    assert "good. 5 entries of tenant a, none missing." in said
    assert "Not all of their content" not in said


def test_a_part_is_called_one(shell, tmp_path):
    window = Window(201, 300)
    said = verified(
        shell, tmp_path, part=(2, 4), change=lambda manifest: dataclasses.replace(manifest, window=window)
    )
    assert "good. entries 2 to 3 of 5 of tenant a, none missing." in said
    assert "Not all of their content is shown: start_ns 201, end_ns 300." in said


def test_hidden_sections_and_destroyed_keys_are_said(shell, tmp_path):
    def change(manifest):
        return dataclasses.replace(manifest, sections=("meta",), shredded=(DEK_ID,))

    assert "is shown: only meta, 1 data key destroyed." in verified(shell, tmp_path, change=change)
    record = json.loads(verified(shell, tmp_path, "--json", change=change))
    assert (record["good"], record["first_index"], record["end_index"]) == (True, 0, 5)
    assert (record["sections"], record["shredded"]) == (["meta"], [DEK_ID.hex()])
