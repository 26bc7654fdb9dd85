"""Notes with Ed25519 signatures: C2SP signed-note, and checkpoints: C2SP tlog-checkpoint.

Parsing is strict: a text that does not encode to the same bytes again is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_ED25519 = b"\x01"


class NoteError(ValueError):
    """Bytes are not a note, or none that these keys signed."""


def strict_base64(text: str) -> bytes:
    """Decode standard base64. Refuses every spelling but the canonical one.

    Raises:
        NoteError: not canonical base64.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise NoteError("not canonical base64")
    return data


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name. Its text form is `name+hash+base64`."""

    name: str
    public_key: bytes
    """32 bytes of Ed25519."""

    @property
    def key_hash(self) -> bytes:
        """4 bytes that identify the key among those of its name."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_hash.hex()}+{base64.b64encode(_ED25519 + self.public_key).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Parse the text form.

        Raises:
            NoteError: not a verifier key.
        """
        name, _, rest = text.partition("+")
        _, _, encoded = rest.partition("+")
        data = strict_base64(encoded)
        if not name or data[:1] != _ED25519 or len(data) != 33:
            raise NoteError("not an Ed25519 verifier key")
        key = cls(name, data[1:])
        if str(key) != text:
            raise NoteError("the verifier key's hash is not its own")
        return key


class NoteSigner:
    """Signs notes under one name."""

    def __init__(self, name: str, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        public = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier_key = VerifierKey(name, public)

    def sign(self, text: str) -> bytes:
        """Make the note: text, an empty line, one signature line. The text has to end with a newline."""
        signature = self.verifier_key.key_hash + self._private_key.sign(text.encode())
        line = f"— {self.verifier_key.name} {base64.b64encode(signature).decode()}\n"
        return (text + "\n" + line).encode()


def open_note(note: bytes, key: VerifierKey) -> str:
    """Open a note that carries exactly one signature, of this key, and return its text.

    Raises:
        NoteError: another form, another signer, or a wrong signature.
    """
    try:
        decoded = note.decode()
    except UnicodeDecodeError:
        raise NoteError("not UTF-8") from None
    text, cut, tail = decoded.partition("\n\n")
    if not cut or not tail.endswith("\n") or tail.count("\n") != 1:
        raise NoteError("a note is a text, an empty line and one signature line")
    parts = tail[:-1].split(" ")
    if len(parts) != 3 or parts[0] != "—" or parts[1] != key.name:
        raise NoteError("the signature line is not this key's")
    signature = strict_base64(parts[2])
    if len(signature) != 68 or signature[:4] != key.key_hash:
        raise NoteError("the signature is not this key's")
    text += "\n"
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature[4:], text.encode())
    except InvalidSignature:
        raise NoteError("the signature is wrong") from None
    return text


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The size and root of a log at one moment."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note's text: origin, size, base64 root, a line each."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Parse a note's text.

        Raises:
            NoteError: not a checkpoint, or not spelled canonically.
        """
        lines = text.split("\n")
        if len(lines) != 4 or not lines[1].isdecimal() or len(lines[1]) > 20:
            raise NoteError("a checkpoint is three lines: origin, size, root")
        checkpoint = cls(lines[0], int(lines[1]), strict_base64(lines[2]))
        if len(checkpoint.root) != 32 or checkpoint.text() != text:
            raise NoteError("the checkpoint is not spelled canonically")
        return checkpoint
