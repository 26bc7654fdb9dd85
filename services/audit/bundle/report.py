"""The report of a verification: damages, their causes among them, and a verdict in plain words."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from services.audit.bundle.files import CHECKPOINT, MANIFEST, RECORDS, SIGNATURE
from services.audit.bundle.manifest import SECTION_NAMES, Window

_PARTS = frozenset((MANIFEST, SIGNATURE, CHECKPOINT, RECORDS))
"""The files whose statements are compared with each other."""


class DamageKind(IntEnum):
    """The kind of a damage. A lower kind explains a higher one of the same file."""

    FILE = 1
    """A file is missing, or is not a plain file."""
    UNLISTED = 2
    """The folder holds something that is no part of a bundle."""
    SIGNATURE = 3
    """No pinned key signed the file, or not for this log or size."""
    FORM = 4
    """The file is not in the form that the service writes."""
    RECORD = 5
    """A line of records.jsonl is wrong, or its place among the others."""
    CONTRADICTION = 6
    """Two parts of the bundle say different things."""
    CHANGED = 7
    """The file does not have the hash and length that the manifest lists."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong."""

    kind: DamageKind
    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(slots=True)
class VerificationReport:
    """The report of a verification; good when there is no damage.

    A good bundle may hold a part of a log and show a part of its content: the last five fields say which.
    """

    origin: str = ""
    tenant_uid: str = ""
    size: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    """Names of files that file managers left in the folder. They are no damage and were not read."""
    first_index: int = 0
    end_index: int = 0
    window: Window = field(default_factory=Window)
    sections: tuple[str, ...] = SECTION_NAMES
    shredded: tuple[bytes, ...] = ()
    """dek_ids of destroyed keys, by the word of the service: their content can never be read again."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damages

    def add(self, kind: DamageKind, file: str, what: str) -> None:
        """Name a damage."""
        self.damages.append(Damage(kind, file, what))

    def causes(self) -> list[Damage]:
        """The damages that no other one explains, at most one a file; at least one where there is any."""
        unexplained = [damage for damage in self.damages if not self._is_explained(damage)]
        first: dict[str, Damage] = {}
        for damage in sorted(unexplained, key=lambda damage: damage.kind):
            first.setdefault(damage.file, damage)
        return list(first.values())

    def verdict(self) -> str:
        """The causes' meaning and the next step, as one paragraph; empty for a good bundle."""
        if self.good:
            return ""
        causes = self.causes()
        kinds = {damage.kind for damage in causes}
        names = ", ".join(dict.fromkeys(damage.file for damage in causes))
        if DamageKind.FILE in kinds:
            return (
                "The bundle is not whole, so it shows nothing about the log. Copy all five files again from where "
                "they were exported, or export the log again."
            )
        if kinds == {DamageKind.UNLISTED}:
            return (
                "The five files of the bundle are good. The folder holds something else that is not signed, and that a "
                "reader may take for evidence. Move it out of the folder and verify again."
            )
        if kinds & {DamageKind.SIGNATURE, DamageKind.FORM}:
            return (
                "The pinned keys do not vouch for this bundle: either they are the keys of another log, or the bundle "
                "was changed or forged. Rely on nothing in it. Make sure that the keys are those of this log, then "
                "export the log again. If a fresh export does not verify either, it is an incident."
            )
        changed = [damage.file for damage in self.damages if damage.kind is DamageKind.CHANGED]
        if changed:
            return (
                f"{', '.join(changed)} changed after the export: the signed manifest lists other bytes. Do not rely on "
                "this copy. It does not show that the log itself is damaged: export the log again and verify that."
            )
        return (
            f"No file differs from what the signed manifest lists, and yet the bundle contradicts itself ({names}). It "
            "was wrong when it was made: by the audit service, or by a holder of its keys. This is an incident. Keep "
            "the bundle as it is."
        )

    def _is_explained(self, damage: Damage) -> bool:
        others = [other for other in self.damages if other is not damage]
        # Records and hashes are judged by what the manifest says.
        no_manifest = any(
            other.file in (MANIFEST, SIGNATURE) and other.kind <= DamageKind.FORM for other in others
        )
        if damage.kind is DamageKind.RECORD:
            return no_manifest
        if damage.kind is DamageKind.CHANGED:
            return no_manifest or any(other.file == damage.file for other in others)
        if damage.kind is DamageKind.CONTRADICTION:
            first = next(one for one in self.damages if one.kind is DamageKind.CONTRADICTION)
            return damage is not first or any(
                other.file in _PARTS and other.kind < DamageKind.CONTRADICTION for other in others
            )
        return False
