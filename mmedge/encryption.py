"""Encrypted files: AES-256-GCM in chunks, each in its place and the last one marked, so that none is missing or moved.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway & Vizár 2015, "Online authenticated-encryption and its
nonce-reuse misuse-resistance"), with a key of its own for every file (HKDF-SHA256 of the key and a random salt), as
Tink's AES-GCM-HKDF streaming has it. File: MAGIC, salt [32], then chunks, each with its tag of 16 bytes.
"""

from __future__ import annotations

import io
import os
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from mmedge.errors import MissingDependency, MmedgeError, UsageError

MAGIC = b"mmedge-encrypted-1\n"
_SALT, _TAG, _CHUNK = 32, 16, 1 << 20
_TODO = "openssl rand -hex 32 > KEYFILE"


def read_key(key: str | Path | bytes) -> bytes:
    """The 32 bytes of a key, or of a key's file: as they are, or as 64 hexadecimal digits. Raises UsageError."""
    where = None if isinstance(key, bytes) else str(key)
    try:
        content = key if isinstance(key, bytes) else Path(key).read_bytes()
    except FileNotFoundError:
        raise UsageError("the key's file does not exist", where=where, todo=_TODO) from None
    except OSError as error:
        raise UsageError(f"the key's file cannot be read: {error.strerror}", where=where, todo=_TODO) from None
    if len(content) == 32:
        return content
    try:
        found = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        found = b""
    if len(found) != 32:
        raise UsageError("a key is 32 bytes, or 64 hexadecimal digits", where=where, todo=_TODO)
    return found


def is_encrypted(path: Path) -> bool:
    """Whether a file begins as ``encrypt`` writes it."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def encrypt(source: BinaryIO, target: BinaryIO, key: bytes) -> None:
    """Write all of ``source`` encrypted to ``target``. ``key``: 32 bytes."""
    salt = os.urandom(_SALT)
    cipher = _cipher(key, salt)
    target.write(MAGIC + salt)
    number, chunk = 0, source.read(_CHUNK)
    while True:
        following = source.read(_CHUNK)
        target.write(cipher.encrypt(_nonce(number, last=not following), chunk, MAGIC))
        if not following:
            return
        number, chunk = number + 1, following


def decrypt(path: Path, key: bytes) -> io.BytesIO:
    """The content of an encrypted file, in memory. Raises MmedgeError where the key is another one, or the file was changed or cut short."""
    exceptions = import_module("cryptography.exceptions") if _library() else None
    plain = io.BytesIO()
    with path.open("rb") as stream:
        head = stream.read(len(MAGIC) + _SALT)
        cipher = _cipher(key, head[len(MAGIC) :])
        number, chunk = 0, stream.read(_CHUNK + _TAG)
        try:
            while True:
                following = stream.read(_CHUNK + _TAG)
                plain.write(cipher.decrypt(_nonce(number, last=not following), chunk, MAGIC))
                if not following:
                    break
                number, chunk = number + 1, following
        except (exceptions.InvalidTag, ValueError):  # type: ignore[union-attr]
            what = (
                "the file was changed or is cut short"
                if number
                else "the key is not the one that it was encrypted with, or the file was changed"
            )
            raise MmedgeError(
                f"the bundle cannot be decrypted: {what}",
                where=str(path),
                todo="use its own key, or get it again from its source",
            ) from None
    plain.seek(0)
    return plain


def memory_folder() -> Path:
    """A folder that lies in memory. Raises MissingDependency where this system has none."""
    shared = Path("/dev/shm")
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        of_memory = any(line.split()[1:3] == [str(shared), "tmpfs"] for line in mounts)
    except (OSError, IndexError):
        of_memory = False
    if not of_memory or not os.access(shared, os.W_OK):
        raise MissingDependency(
            "an encrypted bundle is opened in memory alone, in /dev/shm, which this system does not have as tmpfs",
            todo="mount it (docker: --shm-size), or ship the bundle unencrypted on an encrypted disk",
        )
    return shared


def _nonce(number: int, *, last: bool) -> bytes:
    return bytes(7) + number.to_bytes(4, "big") + bytes([last])


def _cipher(key: bytes, salt: bytes) -> Any:
    _library()
    hashes = import_module("cryptography.hazmat.primitives.hashes")
    hkdf = import_module("cryptography.hazmat.primitives.kdf.hkdf")
    aead = import_module("cryptography.hazmat.primitives.ciphers.aead")
    return aead.AESGCM(hkdf.HKDF(hashes.SHA256(), 32, salt, MAGIC).derive(key))


def _library() -> bool:
    try:
        import_module("cryptography")
    except ImportError as error:
        raise MissingDependency(
            "encrypted bundles need the package cryptography, which is not installed", todo="pip install 'mmedge[sign]'"
        ) from error
    return True
