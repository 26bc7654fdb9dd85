"""A reader of logs and bundles written from docs/formats alone. It imports nothing of the service, on purpose."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DATA, DEK_OPEN, CHECKPOINT, SESSION, COMMIT = range(1, 6)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def crc32c(data: bytes) -> int:
    """RFC 3720, appendix B.4, bit by bit: reflected polynomial 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def root_of(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    cut = 1
    while cut * 2 < len(leaves):
        cut *= 2
    return sha256(b"\x01" + root_of(leaves[:cut]) + root_of(leaves[cut:]))


def root_of_part(size: int, first: int, leaves: list[bytes], proof: dict) -> bytes:
    """The root that a bundle's leaves and proof lead to: each hash at its place, then RFC 6962 over them."""
    known = {(first + number, 1): item for number, item in enumerate(leaves)}
    place = 0
    for item in proof["left"]:
        width = 1 << (first - place).bit_length() - 1
        known[place, width] = bytes.fromhex(item)
        place += width
    assert place == first
    place = first + len(leaves)
    for item in proof["right"]:
        width = 1 << (size - place).bit_length() - 1
        while place % width:
            width //= 2
        known[place, width] = bytes.fromhex(item)
        place += width
    assert place == size

    def root(start: int, count: int) -> bytes:
        if (start, count) in known:
            return known[start, count]
        cut = 1
        while cut * 2 < count:
            cut *= 2
        return sha256(b"\x01" + root(start, cut) + root(start + cut, count - cut))

    return root(0, size)


def leaf(data: bytes) -> bytes:
    return sha256(b"\x00" + data)


def read_frame(data: bytes, offset: int, place: bytes) -> tuple[int, bytes, bytes]:
    """Kind, body and all bytes of the frame at an offset."""
    magic, kind, zeros, length, crc = struct.unpack_from(">4sB3sII", data, offset)
    assert (magic, zeros) == (b"TNF1", bytes(3))
    body = data[offset + 16 : offset + 16 + length]
    assert len(body) == length
    assert crc == crc32c(place + body)
    return kind, body, data[offset : offset + 16 + length]


def read_journal(path: Path) -> list[tuple[int, bytes, bytes]]:
    """Frames of a journal file, up to its zeros."""
    incarnation, file = (int(part, 16) for part in path.stem.split("-"))
    data, offset, frames = path.read_bytes(), 0, []
    while data[offset : offset + 4] == b"TNF1":
        frames.append(read_frame(data, offset, struct.pack(">QIQ", incarnation, file, offset)))
        offset += len(frames[-1][2])
    assert not data[offset:].strip(b"\x00")
    return frames


def read_segment(path: Path) -> list[tuple[int, bytes, bytes]]:
    data, offset, frames = path.read_bytes(), 0, []
    while offset < len(data):
        frames.append(read_frame(data, offset + 20, data[offset : offset + 20]))
        offset += 20 + len(frames[-1][2])
    return frames


def header(entry: bytes) -> dict:
    names = ("version", "kind", "log_id", "index", "time_ns", "record_id",
             "admit_record_id", "key_digest", "session_id", "writer_digest", "dek_id", "counter")  # fmt: skip
    return dict(zip(names, struct.unpack(">BB16sQQ16s16s16s16s16s16sQ", entry[:138]), strict=True))


def unwrap(wrapped: bytes, under: bytes, place: bytes) -> bytes:
    assert len(wrapped) == 60
    return AESGCM(under).decrypt(wrapped[:12], wrapped[12:], place)


def derived_keys(root_file: bytes, keyring: bytes, dek_id: bytes, framed: bytes = b"") -> tuple[bytes, bytes]:
    """Encryption key and commitment of a DEK, by its wrap in the keyring or else in its DEK_OPEN frame."""
    roots = {root_file[at : at + 4]: root_file[at + 4 : at + 36] for at in range(0, len(root_file), 36)}
    ring = json.loads(keyring)
    whose = ring["tenant_uid"].encode() + b"\x00" + bytes.fromhex(ring["log_id"])
    in_frame = {"kek_version": int.from_bytes(framed[:4], "big"), "wrapped": framed[4:].hex()}
    listed = ring["deks"].get(dek_id.hex(), in_frame)
    (kek,) = [one for one in ring["keks"] if one["version"] == listed["kek_version"]]
    kek_version, root_version = (struct.pack(">I", kek[name]) for name in ("version", "root_version"))
    place = b"tenantry/audit/kek/v1\x00" + whose + root_version + kek_version
    under = unwrap(bytes.fromhex(kek["wrapped"]), roots[root_version], place)
    place = b"tenantry/audit/wrap/v1\x00" + whose + kek_version + dek_id
    dek = unwrap(bytes.fromhex(listed["wrapped"]), under, place)
    info = b"tenantry/audit/dek/v1" + bytes.fromhex(ring["log_id"]) + dek_id
    both = HKDF(algorithm=hashes.SHA512(), length=64, salt=None, info=info).derive(dek)
    return both[:32], both[32:]


def open_content(key: bytes, body: bytes) -> list[bytes | None]:
    """The three payloads of a DATA frame's body, checked against its commitments."""
    entry, sealed = body[:266], body[266:]
    assert entry[138:170] == sha256(sealed)
    plaintext = AESGCM(key).decrypt(header(entry)["counter"].to_bytes(12, "big"), sealed, entry[:138])
    payloads: list[bytes | None] = []
    for number in range(3):
        commitment = entry[170 + 32 * number :][:32]
        flag, plaintext = plaintext[:1], plaintext[1:]
        if flag == b"\x00":
            assert commitment == bytes(32)
            payloads.append(None)
            continue
        assert flag == b"\x01"
        salt, (length,) = plaintext[:32], struct.unpack_from(">I", plaintext, 32)
        payload, plaintext = plaintext[36 : 36 + length], plaintext[36 + length :]
        assert commitment == hmac.new(salt, payload, "sha256").digest()
        payloads.append(payload)
    assert not plaintext
    return payloads


def open_note(note: bytes, verifier_key: str) -> list[str]:
    """The lines of a note's text."""
    name, key_id, encoded = verifier_key.split("+", 2)
    algorithm_and_key = base64.b64decode(encoded)
    assert sha256(name.encode() + b"\n" + algorithm_and_key)[:4].hex() == key_id
    text, line = note.decode().split("\n\n")
    dash, signer, blob = line.rstrip("\n").split(" ")
    assert (dash, signer) == ("\u2014", name)
    signature = base64.b64decode(blob)
    assert signature[:4].hex() == key_id
    public_key = Ed25519PublicKey.from_public_bytes(algorithm_and_key[1:])
    public_key.verify(signature[4:], (text + "\n").encode())
    return text.split("\n")


def check_batches(frames: list[tuple[int, bytes, bytes]], public_key: Ed25519PublicKey) -> int:
    """Check every COMMIT of a journal that begins with batch 1; returns how many there are."""
    batch: list[bytes] = []
    previous, number = bytes(32), 0
    for kind, body, raw in frames:
        if kind != COMMIT:
            batch.append(raw)
            continue
        number += 1
        signed, signature = body[:84], body[84:]
        public_key.verify(signature, b"tenantry/audit/commit/v1\n" + signed)
        size_bytes = sum(len(one) for one in batch)
        root = root_of([leaf(one) for one in batch])
        assert signed == struct.pack(">QIQ32s32s", number, len(batch), size_bytes, previous, root)
        previous, batch = sha256(signed), []
    assert not batch
    return number
