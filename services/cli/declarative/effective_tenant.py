"""A tenant with the defaults in force beside what is set: as YAML for people, as JSON values for programs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tenantry.config.v1.tenant_pb2 import Tenant, TenantConfig

from services.cli.documents import Plain, to_plain, to_yaml
from services.cli.reference.catalog import Catalog, Default, Field, Message, load
from services.cli.reference.effective import Effective, Unset, effective_config
from services.cli.reference.wording import value_words

EFFECTIVE_KEYS = ("effective_config", "config_defaults")
"""The keys that `effective_record` adds; a document that holds them may be written back without."""
_LONGEST_VALUE = 60


def effective_record(tenant: Tenant) -> Plain:
    """A tenant as JSON values, with `effective_config`, every field filled in, and `config_defaults`.

    The latter has each unset field by its path: its value, or a description where only words can say it.
    """
    plain = to_plain(tenant)
    effective = effective_config(plain.get("config", {}), load())
    defaults = {path: _shown(default) for path, default in effective.defaults.items()}
    return plain | dict(zip(EFFECTIVE_KEYS, (effective.values, defaults), strict=True))


def _shown(default: Default) -> object:
    return {"description": default.text} if default.text and default.value is None else default.value


def annotated_tenant(tenant: Tenant) -> str:
    """A tenant as YAML; what is unset stands in comments, so that the document can be written back as it is."""
    plain = to_plain(tenant)
    config = plain.get("config", {})
    catalog = load()
    tree = _Tree(catalog, effective_config(config, catalog))
    lines: list[str] = []
    for name, value in plain.items():
        if name != "config":
            lines += _yaml(name, value)
        elif value:
            lines += ["config:", *_indented(tree.group(value, catalog.messages["TenantConfig"], ""), "  ")]
        else:
            lines.append("config: {}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Tree:
    """Renders groups of fields, each relative to its own first column."""

    catalog: Catalog
    effective: Effective

    def group(self, given: Plain, message: Message, path: str) -> Iterator[str]:
        for field in message.fields.values():
            yield from self._field(given, field, f"{path}.{field.name}" if path else field.name)

    def _field(self, given: Plain, field: Field, path: str) -> Iterator[str]:
        inside = self.catalog.messages.get(field.message)
        value = given.get(field.name)
        if inside is None:
            default = self.effective.defaults.get(path)
            yield from _yaml(field.name, value) if default is None else [_comment(field.name, default)]
        elif field.repeated:
            yield f"{field.name}:" if value else f"# {field.name}: []  # default"
            for place, item in enumerate(value or []):
                yield from self._item(item, inside, f"{path}[{place}]")
        elif value is None:
            yield f"# {field.name}:"
            yield from ("#   " + line.removeprefix("# ") for line in self.group({}, inside, path))
        else:
            yield f"{field.name}:" if value else f"{field.name}: {{}}"
            yield from _indented(self.group(value, inside, path), "  ")

    def _item(self, given: Plain, message: Message, path: str) -> Iterator[str]:
        """Begin with a field that is set: the list's dash stands before it."""
        fields = sorted(message.fields.values(), key=lambda field: field.name not in given)
        lines = [line for field in fields for line in self._field(given, field, f"{path}.{field.name}")]
        first, *rest = lines if given else ["{}", *lines]
        yield f"- {first}"
        yield from _indented(rest, "  ")


def _indented(lines: Iterator[str] | list[str], indent: str) -> Iterator[str]:
    return (f"{indent}{line}" if line else line for line in lines)


def _yaml(name: str, value: object) -> list[str]:
    return to_yaml({name: value}).rstrip("\n").split("\n")


def _comment(name: str, default: Default) -> str:
    lines = _yaml(name, default.value)
    if default.value is None or len(lines) > 1 or len(lines[0]) > _LONGEST_VALUE + len(name):
        return f"# {name}: ({default.text})"
    return f"# {lines[0]}  # default{f': {default.text}' if default.text else ''}"


def unset_between(before: TenantConfig, after: TenantConfig) -> Callable[[str], Unset]:
    """The meaning of a field that differs between two configs, on the side where it is unset, by its path."""
    catalog = load()
    old, new = (effective_config(to_plain(config), catalog).defaults for config in (before, after))

    def unset_of(field: str) -> Unset:
        path = field.removeprefix("config.")
        return Unset(_words(old.get(path)), _words(new.get(path)))

    return unset_of


def _words(default: Default | None) -> str:
    """Empty for a field that has no default or does not exist, such as one of an alias that is gone."""
    if default is None:
        return ""
    return default.text if default.value in (None, "") else value_words(default.value)
