"""Whatever a file holds, reading it ends in one clear line and exit 2, or in plain values. Never in a traceback."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.cli import yaml_reading
from services.cli.yaml_reading import MAX_DEPTH, MAX_TEXT, YamlError, read_yaml
from tests.fakes.mutants import replaced, without

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 20)
)
MERGES = "m0: &m0 {x: 1}\n" + "".join(
    f"m{level}: &m{level} {{<<: [*m{level - 1}, *m{level - 1}], y{level}: 1}}\n" for level in range(1, 40)
)
CHAIN = "c0: &c0 [x]\n" + "".join(f"c{level}: &c{level} [*c{level - 1}]\n" for level in range(1, 3000))
BAD = {
    "3,000 levels in brackets": (
        b"[" * 3000 + b"]" * 3000,
        "line 1, column 65: more than 64 levels are nested",
    ),
    "3,000 levels of mappings": (b"{a: " * 3000 + b"}" * 3000, "more than 64 levels are nested"),
    "3,000 levels by indentation": (
        b"".join(b" " * level + b"a:\n" for level in range(3000)),
        "more than 64 levels are nested",
    ),
    "3,000 levels by aliases": (CHAIN.encode(), "more than 64 levels are nested"),
    "an alias bomb": (BOMB.encode(), "more than 200000 values, aliases counted"),
    "a bomb of merges": (MERGES.encode(), "more than 200000 values, aliases counted"),
    "an alias of itself": (b"a: &a [*a]", "line 1, column 8: an alias stands inside what it stands for"),
    "an alias of nothing": (b"a: *b", "found undefined alias"),
    "a lone surrogate as a value": (
        rb'a: "\ud800"',
        "line 1, column 4: a text holds one half of a surrogate pair",
    ),
    "a lone surrogate as a field": (rb'"\udfff": 1', "a text holds one half of a surrogate pair"),
    "Latin-1": (
        b"tenant: acme\nconfig: {system_prompt: caf\xe9}",
        "line 2, column 28: the text is not UTF-8",
    ),
    "half of UTF-16": (b"\xff\xfea", "the text is not UTF-16"),
    "UTF-32": (b"\xff\xfe\x00\x00a\x00\x00\x00", "the character U+0000 is not allowed"),
    "a NUL": (b"a: b\x00", "line 1, column 5: the character U+0000 is not allowed"),
    "an escape": (b"a: b\n  \x1b[2J", "line 2, column 3: the character U+001B is not allowed"),
    "a field twice": (b"a: 1\na: 2", "line 2, column 1: the field a is there twice"),
    "a field twice by quotes": (b"a: 1\n'a': 2", "the field a is there twice"),
    "a number as a field": (b"1: 2", "line 1, column 1: a field's name is not a text; put it in quotes"),
    "a yes as a field": (b"on: 2", "a field's name is not a text"),
    "a number as a merged field": (b"a: {<<: {1: b}}", "line 1, column 10: a field's name is not a text"),
    "a number as a field of an unknown kind": (b"a: {<<: !x {1: b}}", "a field's name is not a text"),
    "a merged field twice": (b"a: {<<: {b: 1, b: 2}}", "line 1, column 16: the field b is there twice"),
    "a list as a field": (b"? [a]\n: 2", "a field's name is not a text"),
    "an unknown merge": (b"a: {<<: 1}", "expected a mapping or list of mappings for merging"),
    "NaN": (b"a: .nan", "line 1, column 4: a number is not finite"),
    "infinity": (b"a: -.inf", "a number is not finite"),
    "a float beyond floats": (b"a: 1.0e+999", "a number is not finite"),
    "a number of 5,000 digits": (b"a: " + b"9" * 5000, "a number has more than 100 digits"),
    "a huge text": (
        b"a: " + b"x" * (MAX_TEXT + 1),
        f"a text has {MAX_TEXT + 1} characters, more than {MAX_TEXT}",
    ),
    "a tab as indentation": (b"a:\n\tb: 1", "line 2, column 1: there is a tab; YAML takes spaces only"),
    "a tab after spaces": (b"a:\n  \tb: 1\n  c: 2", "line 2, column 3: there is a tab"),
    "a tab before a list": (b"a:\n\t- b", "there is a tab"),
    "an open bracket": (b"a: [", "line 1, column 5: expected the node content"),
    "an open quote": (b'a: "b', "found unexpected end of stream"),
    "a Python object": (b"a: !!python/object/apply:os.system [x]", "is not known"),
    "a tag of ours": (b"a: !secret x", "line 1, column 4: the tag !secret is not known"),
    "binary": (b"a: !!binary aGVsbG8=", "is not known"),
    "a set": (b"a: !!set {b, c}", "is not known"),
    "a wrong number": (b"a: !!int x", "a value is not the number that its tag says"),
    "a wrong float": (b"a: !!float x", "a value is not the number that its tag says"),
    "a wrong yes": (b"a: !!bool maybe", "a value is not the yes or no that its tag says"),
    "a list that says it is a mapping": (b"a: !!map [b]", "a mapping is expected"),
    "a mapping that says it is a list": (b"a: !!seq {b: c}", "a list is expected"),
    "a mapping that says it is a text": (b"a: !!str {b: c}", "expected a scalar node"),
    "a directive of a newer YAML": (b"%YAML 3.0\n---\na: 1", "found incompatible YAML document"),
}


@pytest.mark.parametrize(("data", "complaint"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line_and_exit_2(shell, admin, tmp_path, data, complaint):
    file = tmp_path / "bad.yaml"
    file.write_bytes(data)
    admin.add_tenant("acme")
    for command in (
        ("tenant", "update", "acme", "--file"),
        ("tenant", "apply", "--yes", "-f"),
        ("pool", "create", "p", "--file"),
    ):
        result = shell(*command, str(file))
        assert result.exit_code == 2
        assert complaint in result.stderr
        [line] = [line for line in result.stderr.splitlines() if complaint in line]
        assert re.search(r"bad\.yaml is not YAML, line \d+, column \d+: ", line)
        assert len(result.stderr.splitlines()) <= 3
    assert not admin.changes


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "holds 0 documents where one is expected"),
        (b"# nothing\n", "holds 0 documents"),
        (b"a: 1\n---\nb: 2", "holds 2 documents"),
        (b"- a\n- b", "holds no mapping"),
        (b"7", "holds no mapping"),
        (b"just words", "holds no mapping"),
        (b"[]", "holds no mapping"),
        (b"true", "holds no mapping"),
    ],
)
def test_another_number_or_kind_of_documents_is_named(shell, admin, tmp_path, data, complaint):
    file = tmp_path / "bad.yaml"
    file.write_bytes(data)
    result = shell("tenant", "update", "acme", "--file", str(file))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0].startswith("Error: ")
    assert complaint in result.stderr


def test_a_folder_and_what_never_ends_are_named(shell, admin, tmp_path, monkeypatch):
    monkeypatch.setattr("services.cli.documents.MAX_FILE_BYTES", 1 << 16)
    assert "Is a directory" in shell("tenant", "update", "acme", "--file", str(tmp_path)).stderr
    endless = shell("tenant", "update", "acme", "--file", "/dev/zero")
    assert endless.exit_code == 2
    assert "has more than the 65536 bytes" in endless.stderr


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xef\xbb\xbfa: b", {"a": "b"}),
        ("a: é".encode("utf-16"), {"a": "é"}),
        (rb'{"a": "\ud83d\ude00"}', {"a": "😀"}),
        (b"a: 2026-01-31", {"a": "2026-01-31"}),
        (b"a: =", {"a": "="}),
        (b"a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}", {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}),
        (
            b"base: &b {temperature: 1}\nfinal: {<<: &t {<<: *b, temperature: 0.2}}\nother: *t",
            {"base": {"temperature": 1}, "final": {"temperature": 0.2}, "other": {"temperature": 0.2}},
        ),
        (b"a: [1, 2.5, true, null, 'x']", {"a": [1, 2.5, True, None, "x"]}),
        (b"a: !!str 7", {"a": "7"}),
        (b"a: 'with\ta tab'", {"a": "with\ta tab"}),
    ],
)
def test_what_is_fine_is_read(data, value):
    assert read_yaml(data) == [value]


def test_just_within_the_bounds_is_read():
    assert read_yaml(b"[" * (MAX_DEPTH - 1) + b"x" + b"]" * (MAX_DEPTH - 1))
    assert len(read_yaml(b"a: " + b"x" * MAX_TEXT)[0]["a"]) == MAX_TEXT


@settings(max_examples=300)
@given(st.binary(max_size=80) | st.text("[]{}:,-&*a!<>|%\"'\\ \n\t#?1.~", max_size=60).map(str.encode))
@example(b"a: &a {<<: *a}")
@example(b"? {a: b}\n: c")
@example(b"!!map")
def test_any_bytes_are_read_or_refused(data):
    complaint, values = YamlError("none", 1, 1), []
    try:
        values = read_yaml(data)
    except YamlError as error:
        complaint = error
    assert min(complaint.line, complaint.column) >= 1
    assert json.dumps(values, allow_nan=False).encode()
    assert str(complaint).encode()


@given(st.recursive(st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=8)
                    | st.floats(allow_nan=False, allow_infinity=False),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
                    max_leaves=12))  # fmt: skip
def test_json_is_read_as_json_reads_it(value):
    # Floats such as 1e5 have no point in JSON: to YAML 1.1 they are texts, which fill number fields as well.
    document = json.dumps({"v": value})
    if not re.search(r"\de[+-]?\d", document):
        assert read_yaml(document.encode()) == [json.loads(document)]


def test_a_merge_of_a_field_that_is_no_text_is_read_where_names_are_not_checked_as_written():
    careless = without(yaml_reading, "names-are-checked-as-written")
    assert careless.read_yaml(b"a: {<<: {1: b}}") == [{"a": {1: "b"}}]


def test_without_the_measure_an_alias_bomb_is_read(monkeypatch):
    small = "\n".join(BOMB.splitlines()[:7])
    with pytest.raises(YamlError):
        read_yaml(small.encode())
    careless = replaced(
        yaml_reading, "_Loader._measure", lambda self, node, mark: self._sizes.setdefault(id(node), (1, 1))
    )
    assert careless.read_yaml(small.encode())
