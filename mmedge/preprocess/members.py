"""Files inside of tar archives, read where they lie: a path of the form ARCHIVE!PLACE+SIZE@STATE!NAME."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

from mmedge.errors import MmedgeError

_FORM = re.compile(r"(.*\.tar)!(\d+)\+(\d+)@([0-9a-f.]+)!.*", re.DOTALL)


def state(size: int, time: int) -> str:
    """What tells that an archive is as it was when its members were looked for. ``time``: of its last change, in ns."""
    return f"{size:x}.{time:x}"


def address(archive: Path, place: int, size: int, name: str, seen: str) -> str:
    """The path of a member, whose ``size`` bytes begin at ``place`` of the archive, of which ``seen`` is the ``state``."""
    return f"{archive}!{place}+{size}@{seen}!{name}"


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
    """The bytes of a member; None where ``path`` is a file's own. Raises MmedgeError where the archive is another one now."""
    found = None if os.path.isfile(path) else _FORM.fullmatch(os.fspath(path))
    if found is None:
        return None
    try:
        with open(found[1], "rb") as archive:
            now = os.fstat(archive.fileno())
            if now.st_size < int(found[2]) + int(found[3]):  # before room is made for as many bytes as the path says
                raise MmedgeError("the archive ends before the file does", where=os.fspath(path), todo="copy it again")
            if state(now.st_size, now.st_mtime_ns) != found[4]:  # another file may lie there
                raise MmedgeError(
                    "the archive has changed since its files were looked for",
                    where=found[1],
                    todo="leave it as it is while it is read; the same command looks for them anew",
                )
            archive.seek(int(found[2]))
            return archive.read(int(found[3]))
    except OSError as error:
        raise MmedgeError(f"the archive cannot be read: {error.strerror}", where=found[1]) from error


def openable(path: Path) -> Path | io.BytesIO:
    """What a library that takes paths and open files reads."""
    read = content(path)
    return path if read is None else io.BytesIO(read)
