"""Rules of the tree that no linter knows: names, docstrings, sizes of folders, who reads the environment.

The rules on imports are in pyproject.toml, section tool.importlinter.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("services", "triton_models", "tests", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)
SHIPPED = [path for path in SOURCES if path.parts[0] in ("services", "triton_models")]
MAX_MODULES = 20
# Names that say nothing of what is inside.
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "manager", "handler", "handlers", "misc", "common_utils"}


def reads_environment(source: str) -> bool:
    """Whether code touches `os.environ` or its kin, under whatever name `os` is imported."""
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in names and isinstance(node.value, ast.Name):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os" and names & {a.name for a in node.names}:
            return True
    return False


def test_the_tree_is_where_it_is_looked_for():
    assert len(SHIPPED) > 50


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("import os\nos.environ['X']", True),
        ("import os\nos.getenv('X')", True),
        ("import os as o\no.environ.get('X')", True),
        ("from os import environ", True),
        ("from os import path, getenv as g", True),
        ("import os\nos.path.join('a')", False),
        ("environment = 1", False),
    ],
)
def test_reading_the_environment_is_recognised(source, reads):
    assert reads_environment(source) == reads


def test_only_settings_read_the_environment():
    readers = [str(path) for path in SHIPPED if reads_environment((ROOT / path).read_text())]
    assert [path for path in readers if Path(path).name != "settings.py"] == []


def test_folders_stay_small():
    """A folder of more than 20 modules is cut into folders that have names."""
    counts = Counter(
        str(path.parent) for path in SHIPPED if path.parts[0] == "services" and path.name != "__init__.py"
    )
    assert {folder: count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_unit_tests_have_the_tree_of_the_sources():
    sources = {path.parent.relative_to(path.parts[0]) for path in SHIPPED} | {
        Path("protos"),
        Path("triton_models"),
    }
    folders = {
        path.parent.relative_to("tests/unit") for path in SOURCES if path.is_relative_to(Path("tests/unit"))
    }
    assert sorted(str(folder) for folder in folders - sources) == []


def test_names_say_what_is_inside():
    vague = [
        str(path)
        for path in SOURCES
        if EMPTY_NAMES & {word for part in path.with_suffix("").parts for word in part.split("_")}
    ]
    assert vague == []


def test_packages_hold_a_docstring_only():
    for path in SHIPPED:
        if path.name == "__init__.py":
            body = ast.parse((ROOT / path).read_text()).body
            assert len(body) <= 1, path
            assert all(
                isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body
            ), path


def test_every_module_says_what_it_is_for():
    silent = [str(path) for path in SHIPPED if not ast.get_docstring(ast.parse((ROOT / path).read_text()))]
    assert silent == []


def test_workers_are_given_whole_modules(request):
    """With a pytest that xdist cannot group tests of, every worker starts every server, and nothing says so."""
    if request.config.getoption("loadgroup", False):
        assert all("@" in item.nodeid for item in request.session.items)


def says_pure(path: Path) -> bool:
    """Whether a module's docstring has the sentence "Pure."."""
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    return path.name != "__init__.py" and re.search(r"(^|[.;] )Pure\b", docstring, re.MULTILINE) is not None


def reaches(graph: grimp.ImportGraph, module: str, outside: set[str]) -> set[str]:
    """The names among `outside` that a module imports, itself or through others of the tree."""
    return graph.find_upstream_modules(module) & outside


def test_modules_that_say_pure_are_pure():
    """Whole folders are held by the import contracts; this holds the pure modules of mixed folders."""
    graph = grimp.build_graph("services", "triton_models", include_external_packages=True, cache_dir=None)
    pure = [path for path in SHIPPED if says_pure(path)]
    assert len(pure) > 20
    impure = {
        str(path): found
        for path in pure
        if (found := reaches(graph, ".".join(path.with_suffix("").parts), {"asyncio", "grpc"}))
    }
    assert impure == {}
    assert reaches(graph, "services.router.main", {"asyncio", "grpc"}) == {"asyncio", "grpc"}


def test_the_paths_that_newcomers_are_given_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:services|tests|scripts|docs|protos|triton_models)/[\w./-]+)`", text))
    assert len(named) > 15
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
