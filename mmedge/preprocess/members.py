"""Files inside of tar archives, read where they lie: a path of the form ARCHIVE!PLACE+SIZE!NAME."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

from mmedge.errors import MmedgeError

_FORM = re.compile(r"(.*\.tar)!(\d+)\+(\d+)!.*", re.DOTALL)


def address(archive: Path, place: int, size: int, name: str) -> str:
    """The path of a member, whose ``size`` bytes begin at ``place`` of the archive."""
    return f"{archive}!{place}+{size}!{name}"


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file, or such a place in an archive."""
    if os.path.isfile(path):  # Path's own raises for names too long
        return True
    found = _FORM.fullmatch(os.fspath(path))
    try:
        return found is not None and os.stat(found[1]).st_size >= int(found[2]) + int(found[3])
    except (OSError, ValueError):
        return False


def content(path: str | os.PathLike[str]) -> bytes | None:
    """The bytes of a member; None where ``path`` is a file's own. Raises MmedgeError where the archive has lost them."""
    found = None if os.path.isfile(path) else _FORM.fullmatch(os.fspath(path))
    if found is None:
        return None
    if os.path.isfile(found[1]) and not exists(path):  # before room is made for as many bytes as the path says
        raise MmedgeError("the archive ends before the file does", where=os.fspath(path), todo="copy it again")
    try:
        with open(found[1], "rb") as archive:
            archive.seek(int(found[2]))
            return archive.read(int(found[3]))
    except OSError as error:
        raise MmedgeError(f"the archive cannot be read: {error.strerror}", where=found[1]) from error


def openable(path: Path) -> Path | io.BytesIO:
    """What a library that takes paths and open files reads."""
    read = content(path)
    return path if read is None else io.BytesIO(read)
