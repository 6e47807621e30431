"""Tar shards as WebDataset writes them, as a manifest: a row a key, and each media member addressed where it lies.

One pass over the headers, by Python's own tarfile; nothing is unpacked. The package ``webdataset`` would read sequentially
and unpickles what it meets, so it is no dependency.
"""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import polars

from mmedge.data.manifest.splits import SPELLINGS
from mmedge.errors import Fault, MmedgeError, brief
from mmedge.preprocess import members

# Columns that a shard gives beside its members: the sample's key, the shard's name, and the split that its name begins with.
KEY, SHARD, SPLIT = "__key__", "__shard__", "__split__"
# Endings of members that are values and no files, as WebDataset decodes them.
_TEXTS = frozenset(
    ["txt", "text", "transcript", "caption", "label", "cls", "cls2", "class", "count", "index", "inx", "id"]
)
_JSON = frozenset(("json", "jsn"))
# A key ends at the first dot of a name's last part.
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_RANGE = re.compile(r"\{([^{}]*)\}")
_BLOCK = 512
# Shards that a range names: a slip in it would fill the memory with names.
_MOST = 1_000_000


@dataclass(frozen=True)
class Shards:
    """``table``: a row a sample, all cells texts; ``cut``: {shard: how it ends early}, whose last sample is left out."""

    table: polars.DataFrame
    cut: dict[str, str]
    count: int


def named(path: Path) -> list[Path]:
    """The shards that a manifest names: a .tar, a folder of some, a pattern (* ? or {000..012}). [] where it is a table."""
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    if not str(path).endswith(".tar") or not (_RANGE.search(str(path)) or has_magic(str(path))):
        return []
    found = [Path(one) for text in _spread(str(path)) for one in (sorted(glob(text)) if has_magic(text) else [text])]
    if lacking := next((one for one in found if not one.is_file()), None) or (None if found else path):
        raise MmedgeError("there is no such shard", where=str(lacking), todo="correct data.manifest")
    return found


def state(shards: list[Path]) -> list[tuple[str, int, int]]:
    """What tells that a shard has changed; its content is not hashed, which would be a pass over all data."""
    return [(str(one.absolute()), (seen := one.stat()).st_size, seen.st_mtime_ns) for one in shards]


def read(path: Path) -> Shards | None:
    """The shards that ``path`` names; None where it names none. Raises MmedgeError for what is no tar, or no sample of it."""
    found = named(path)
    return _read(str(path), tuple(state(found))) if found else None


def faults(path: Path, share: float) -> list[Fault]:
    """Shards that end early: warnings up to ``share`` of them, and errors beyond it."""
    whole = read(path)
    if whole is None or not whole.cut:
        return []
    beyond = len(whole.cut) > share * whole.count
    todo = "copy it again" + (
        f", or raise data.unreadable ({share:g}) to go on without the rest of it" if beyond else ""
    )
    severity: Any = "error" if beyond else "warning"
    return [
        Fault(severity, "cut-shard", f"{len(whole.cut)} of {whole.count} shards end early: {how}", shard, todo=todo)
        for shard, how in whole.cut.items()
    ]


@lru_cache(maxsize=2)
def _read(path: str, states: tuple[tuple[str, int, int], ...]) -> Shards:
    rows, cut = list[dict[str, str | None]](), dict[str, str]()
    splits = [_split(Path(shard).name) for shard, _, _ in states]
    for (shard, size, time), split in zip(states, splits):
        own = {SHARD: Path(shard).name.removesuffix(".tar"), **({SPLIT: split} if all(splits) else {})}
        for key, cells in _samples(Path(shard), size, members.state(size, time), cut):
            rows.append({KEY: key, **own, **cells})
    if not rows:
        what = (
            "the shards hold no sample" if not cut else f"the shards hold no whole sample: {next(iter(cut.values()))}"
        )
        raise MmedgeError(what, where=path, todo="name members KEY.jpg, KEY.json, KEY.cls, a key a sample")
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    table = polars.DataFrame(
        {name: [row.get(name) for row in rows] for name in columns}, schema=dict.fromkeys(columns, polars.String)
    )
    return Shards(table.with_columns(polars.when(polars.all() != "").then(polars.all())), cut, len(states))


def _split(name: str) -> str | None:
    word = re.match(r"[^\W\d_]+", name)
    return SPELLINGS.get(word[0].lower()) if word else None


def _samples(shard: Path, size: int, seen: str, cut: dict[str, str]) -> Iterator[tuple[str, dict[str, str | None]]]:
    """(key, cells) of each sample of a shard in the state ``seen``; members of one key stand together. Notes in ``cut`` that it ends early."""
    key, cells, broken = "", dict[str, str | None](), False
    for name, place, length, text in _members(shard, size, cut):
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        if found[1] != key:
            if cells:
                yield key, cells
            key, cells, broken = found[1], {}, False
        broken = broken or place + length > size
        where = members.address(shard, place, length, name, seen)
        for column, cell in _cells(shard, found[2].lower(), where, text).items():
            if column in cells:
                raise MmedgeError(
                    f"the sample {brief(key)} has {column!r} twice", where=f"{shard}, {name}", todo="rename a member"
                )
            cells[column] = cell
    if cells and str(shard) not in cut:  # of the last sample of one that ends early some may be missing
        yield key, cells


def _members(shard: Path, size: int, cut: dict[str, str]) -> Iterator[tuple[str, int, int, bytes | None]]:
    """(name, where it begins, its size, what it holds where it is a value) of the files of a shard."""
    end, behind = 0, b""
    try:
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # not held: there may be a million
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                if not member.isreg():
                    continue
                if member.issparse():
                    what, todo = (
                        "a sparse file of a shard does not lie there as it is",
                        "write the shard without --sparse",
                    )
                    raise MmedgeError(what, where=f"{shard}, {member.name}", todo=todo)
                value = member.name.rpartition(".")[2].lower() in _TEXTS | _JSON
                held = archive.extractfile(member) if value and member.offset_data + member.size <= size else None
                yield member.name, member.offset_data, member.size, held.read() if held else None
        with shard.open("rb") as stream:
            stream.seek(end)
            behind = stream.read(_BLOCK)
    except (tarfile.TarError, OSError) as error:
        if end == 0:
            todo = "unpack .tar.gz to .tar: inside of a compressed one no file can be addressed"
            raise MmedgeError(f"the shard is no tar: {error}", where=str(shard), todo=todo) from error
        cut[str(shard)] = f"after {end:,} of its bytes: {error}"
        return
    if end > size - _BLOCK:  # two blocks of zeros end a tar
        cut[str(shard)] = f"after {size:,} bytes, without the mark of a tar's end"
    elif any(behind):  # tarfile takes a header that is damaged for the end, and all that follows it would be left out
        cut[str(shard)] = f"after {end:,} of its {size:,} bytes: what follows is no member"


def _cells(shard: Path, ending: str, place: str, held: bytes | None) -> dict[str, str | None]:
    """The columns that a member gives."""
    last = ending.rpartition(".")[2]
    if held is None or last not in _TEXTS | _JSON:
        return {ending: place}
    try:
        text = held.decode()
        if last in _TEXTS:
            return {ending: text.strip()}
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MmedgeError(f"the member cannot be read: {error}", where=place, todo="write it as UTF-8") from error
    return {name: _cell(x) for name, x in values.items()} if isinstance(values, dict) else {ending: _cell(values)}


def _cell(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else json.dumps(value, ensure_ascii=False)


def _spread(text: str) -> list[str]:
    """A text with each {000..012} and {a,b} in it written out."""
    found = _RANGE.search(text)
    if not found:
        return [text]
    low, dots, high = found[1].partition("..")
    if dots and low.isdecimal() and high.isdecimal():
        if int(high) - int(low) >= _MOST:
            raise MmedgeError(f"more than {_MOST:,} shards are named", where=text, todo="correct data.manifest")
        each = [f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1)]
    else:
        each = found[1].split(",")
    return [one for part in each for one in _spread(text[: found.start()] + part + text[found.end() :])]
