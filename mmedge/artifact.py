"""Artifacts: a folder with ``manifest.json`` and the files that it lists, each with its sha256 and its parent's hash.

Written beside and renamed, so that a crash never leaves half a folder that looks whole. Nothing in it is ever
unpickled.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from mmedge import __version__
from mmedge.contract import Contract
from mmedge.errors import MmedgeError
from mmedge.leftovers import BESIDE, held, put_aside, remove

MANIFEST = "manifest.json"
# What an artifact keeps a network's weights in, and its graph.
WEIGHTS, GRAPH = "weights.safetensors", "model.onnx"
SCHEMA = 1
# A tokenizer of 200,000 tokens stands in a manifest and takes some 20 MB; beside it there are some thousand lines.
_MOST_BYTES, _MOST_LINES, _MOST_VALUES = 64 << 20, 300_000, 3_000_000


@dataclass(frozen=True)
class Artifact:
    """A verified folder. ``key``: the cache key of the stage that made it; ``sha256``: of the manifest's content.

    ``files``: {name: sha256} of those that the manifest lists.
    """

    path: Path
    stage: str
    key: str
    parent: str | None
    sha256: str
    meta: dict[str, Any] = field(repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)

    def file(self, name: str) -> Path:
        return self.path / name


def contract_of(found: Artifact) -> Contract:
    """The contract that an artifact, a bundle or another, was written with; raises MmedgeError where this version does not understand it."""
    try:
        return Contract.model_validate(found.meta.get("contract"))
    except ValidationError as error:
        raise not_understood(found, "contract", error) from None


def not_understood(found: Artifact, key: str, error: ValidationError) -> MmedgeError:
    """The error for what a manifest says of ``key``, by the first of pydantic's."""
    first = error.errors()[0]
    place = ".".join(map(str, (key, *first["loc"])))
    return MmedgeError(
        f"the manifest says of {place} what this version of mmedge does not understand: {first['msg']}",
        where=str(found.path),
        todo="export it again, or install the version of mmedge that made it",
    )


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Hex sha256 of a value's canonical JSON."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode()
    ).hexdigest()


@functools.cache
def code_hash(*names: str) -> str:
    """Hash of the package's own source files and folders of these names; ``.py`` may be left out."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for name in names:
        place = root / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside ``path`` and rename; NaN and infinity are refused, since JSON has neither."""
    with replacing(path) as temporary:
        temporary.write_text(_as_json(value), encoding="utf-8")


def remembered(path: Path, compute: Callable[[], Any]) -> Any:
    """A JSON value that is computed once and kept in ``path``; where it cannot be read it is computed again."""
    if found := known(path):
        return found[0]
    write_json(path, compute())
    return json.loads(path.read_text(encoding="utf-8"))


def known(path: Path) -> tuple[Any, ...]:
    """The one JSON value in ``path``, which may be null; nothing where there is none that can be read."""
    try:
        return (json.loads(path.read_text(encoding="utf-8")),)
    except (OSError, ValueError):
        return ()


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain_text(file: Path) -> str:
    """The text of a plain file: OSError for a link, a device, or what is too large to be one of mmedge's own."""
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
        raise OSError("it is no plain file, or too large")
    return file.read_bytes().decode("utf-8")  # as it is: read_text would turn line ends into its own


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file to; it takes the place of ``path`` where the block ends without an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}{BESIDE}", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            with held(temporary):
                yield temporary
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise MmedgeError(
            f"cannot write: {error.strerror or error}", where=str(path), todo="free some space or choose another --out"
        ) from error


@contextmanager
def creating(path: Path, *, stage: str, key: str, parent: str | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (temporary folder, meta to fill); what stands there at the end becomes the artifact at ``path``."""
    with _replacing_folder(path) as temporary:
        meta: dict[str, Any] = {}
        yield temporary, meta
        files = {
            p.relative_to(temporary).as_posix(): {"sha256": sha256_of(p), "size_bytes": p.stat().st_size}
            for p in sorted(temporary.rglob("*"))
            if p.is_file()
        }
        body = {
            "schema": SCHEMA,
            "mmedge": __version__,
            "stage": stage,
            "key": key,
            "parent": parent,
            "files": files,
            "meta": meta,
        }
        write_json(temporary / MANIFEST, {**body, "sha256": hash_json(body)})


def copied(found: Artifact, path: Path) -> Artifact:
    """The same artifact at ``path``: copied there, unless it is there already."""
    there = unchanged(path, found.key, lambda damaged: None)
    if there and there.sha256 == found.sha256:
        return there
    with _replacing_folder(path) as temporary:
        for name in (MANIFEST, *found.files):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.file(name), temporary / name)
    return read(path)


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to fill; it takes the place of ``path`` where the block ends without an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{BESIDE}", dir=path.parent))
        os.chmod(temporary, 0o755)
        try:
            with held(temporary):
                yield temporary
                _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise MmedgeError(
            f"cannot write: {error.strerror or error}", where=str(path), todo="free some space or choose another --out"
        ) from error


def _replace_folder(new: Path, path: Path) -> None:
    if path.exists():
        old = put_aside(path)
        os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError:
            os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(new, path)


def _remove_left_over(path: Path) -> None:
    """Remove what a killed process left beside ``path``."""
    remove(path.parent.glob(f".{glob.escape(path.name)}{BESIDE}*"))


def unchanged(path: Path, key: str, say: Callable[[str], None]) -> Artifact | None:
    """The artifact at ``path`` where it is whole and of this cache key, so that nothing has to be made; None elsewhere.

    A damaged one is told of and not taken: a cache is made again, where what a user names is an error.
    """
    if not (path / MANIFEST).is_file():
        return None
    try:
        found = read(path)
    except MmedgeError as error:
        say(f"{path}: {error.what}; it is not taken, but made again where it is needed")
        return None
    return found if found.key == key else None


def read(path: Path) -> Artifact:
    """Read and verify an artifact: every listed file is there, inside the folder, and has its hash.

    Raises MmedgeError where the folder is no artifact, or was changed after it was written.
    """
    manifest = path / MANIFEST
    try:
        text = plain_text(manifest)
        record = _parsed(text)
        body = {name: value for name, value in record.items() if name != "sha256"} if isinstance(record, dict) else {}
        digest = hash_json(body)  # a half of a surrogate pair, which JSON can hold, has no bytes to hash
    except FileNotFoundError:
        raise MmedgeError(
            "this folder is no mmedge artifact: it has no manifest.json",
            where=str(path),
            todo="name a folder that mmedge wrote, as OUT/bundle or OUT/teacher",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _tampered(f"the manifest cannot be read: {error}", manifest) from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else None
        raise MmedgeError(
            f"manifest schema {found!r} is not one that mmedge {__version__} reads ({SCHEMA})",
            where=str(manifest),
            todo="build it again with this version",
        )
    if digest != record.get("sha256"):
        raise _tampered("the manifest does not match its own hash", manifest)
    try:
        for name, entry in record["files"].items():
            _verify_file(path, name, entry["sha256"])
        files = {name: entry["sha256"] for name, entry in record["files"].items()}
        meta = {**record["meta"]}
        found = Artifact(path, record["stage"], record["key"], record["parent"], record["sha256"], meta, files)
    except (KeyError, TypeError, AttributeError) as error:
        raise _tampered(f"the manifest lacks {error}", manifest) from error
    if _as_json(record) != text:  # keys given twice, or other blanks: other readers may understand it otherwise
        raise _tampered("the manifest is not, byte for byte, what was written", manifest)
    return found


def _parsed(text: str) -> Any:
    """A manifest's JSON. ValueError for what would take long to read, and for numbers that JSON does not have."""
    values = sum(map(text.count, ",[{"))
    if text.count("\n") > _MOST_LINES or values > _MOST_VALUES:
        raise ValueError("it holds more than any model's")
    return json.loads(text, parse_constant=_refused, parse_float=_finite)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON's")


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) != float("inf") else _refused(text)


def _verify_file(folder: Path, name: str, digest: str) -> None:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name:
        raise MmedgeError(
            f"the manifest names a file outside its folder: {name!r}",
            where=str(folder),
            todo="do not use it: get it again from its source",
        )
    file = folder / relative
    try:
        # A linked folder on the way leads outside as much as a linked file does.
        linked = any((folder / part).is_symlink() for part in (relative, *relative.parents[:-1]))
        there = not linked and file.is_file()
    except OSError:  # longer than any file's name
        there = False
    if not there:
        raise _tampered(f"a listed file is missing or a link: {name[:200]}", folder)
    if sha256_of(file) != digest:
        raise _tampered("a file's content is not what the manifest lists", file)


def _tampered(what: str, where: Path) -> MmedgeError:
    return MmedgeError(
        what, where=str(where), todo="it was changed or damaged after it was written: copy or build it again"
    )
