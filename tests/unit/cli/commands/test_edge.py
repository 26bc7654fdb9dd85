"""`tenantry edge render`, but for Envoy: what is asked wrongly gets one line and status 2."""

from __future__ import annotations

import pytest

from services.cli.documents import to_yaml
from services.cli.yaml_reading import YamlError, read_yaml
from tests.fakes.edge_specs import BAD, REMOVED, edited


def test_the_example_renders(shell, tmp_path):
    example = shell("edge", "render", "--example")
    assert example.exit_code == 0
    spec = tmp_path / "spec.yaml"
    spec.write_text(example.stdout)
    rendered = shell("edge", "render", "--spec", str(spec))
    assert rendered.exit_code == 0
    for suffix in (".json", ".pb", ".yaml"):
        out = tmp_path / f"envoy{suffix}"
        assert shell("edge", "render", "--spec", str(spec), "--out", str(out)).exit_code == 0
        assert out.stat().st_mode & 0o777 == 0o600
        if suffix != ".pb":
            assert out.read_text() == rendered.stdout
    assert shell("edge", "render", "--spec", "-", stdin=example.stdout).stdout == rendered.stdout


def is_read(value: object) -> bool:
    """Whether a file can hold a value; what YAML itself refuses is in `test_yaml_reading.py`."""
    try:
        # A value that stands for "take it away" leaves a document that is read.
        return value is REMOVED or read_yaml(to_yaml(value).encode("utf-8", "replace")) == [value]
    except YamlError:
        return False


FROM_FILES = [case for case in BAD if is_read(case[1])]


def test_most_bad_specs_come_as_far_as_the_spec():
    assert len(FROM_FILES) > 0.8 * len(BAD)


@pytest.mark.parametrize(("place", "value", "field", "text"), FROM_FILES, ids=lambda part: str(part)[:40])
def test_a_bad_spec_gets_one_line_and_status_2(shell, tmp_path, place, value, field, text):
    spec = tmp_path / "spec.yaml"
    spec.write_text(to_yaml(edited(place, value)))
    done = shell("edge", "render", "--spec", str(spec))
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {spec}: {field} ")
    assert text in line


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("[1, 2]", "holds no mapping"),
        ("a: [", "is not YAML"),
        ("", "holds 0 documents"),
        ("a: 1\n---\nb: 2", "holds 2 documents"),
        ("admin: x\nadmin: y", "is there twice"),
    ],
)
def test_a_file_that_is_no_document_gets_one_line_and_status_2(shell, tmp_path, document, text):
    spec = tmp_path / "spec.yaml"
    spec.write_text(document)
    done = shell("edge", "render", "--spec", str(spec))
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert text in line


def test_options_that_make_no_sense_together_are_refused(shell, tmp_path):
    for options in ([], ["--example", "--spec", "x"], ["--spec", str(tmp_path / "none")]):
        assert shell("edge", "render", *options).exit_code == 2


def test_a_file_whose_format_envoy_would_not_know_is_refused(shell, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(shell("edge", "render", "--example").stdout)
    done = shell("edge", "render", "--spec", str(spec), "--out", str(tmp_path / "envoy.txt"))
    assert done.exit_code == 2
    assert "envoy.txt ends in none of .pb, .json" in done.stderr
