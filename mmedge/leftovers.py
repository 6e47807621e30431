"""What is written for the time being is marked by a name and a lock; what a killed process left of it is removed by the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Part of the name of what is written beside its place: left behind, it is known as ours.
BESIDE = ".mmedge-"
# How a folder begins that was put aside for a new one to take its place.
_PUT_ASIDE = f"{BESIDE}old-"
# Folders of temporary files begin so, wherever the system keeps them.
_SCRATCH = "mmedge-scratch-"
# Between making a file and locking it, in seconds: younger ones are not judged yet.
_YOUNG = 1.0


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Mark what is being written by a lock, which the system lets go of however this process ends."""
    if fcntl is None:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network's file system may have no locks
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def scratch(inside: Path | None = None) -> Iterator[Path]:
    """A folder for temporary files, removed at the end, or, where this process is killed, by the next that wants one.

    ``inside``: a folder to make it in instead of the system's.
    """
    _remove_scratch(inside)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=inside, ignore_cleanup_errors=True) as name, held(Path(name)):
        yield Path(name)


@contextmanager
def removed_when_done(folder: Path) -> Iterator[None]:
    """Remove ``folder`` when the block ends, unless an interrupt ends it: the same command then finds what it held, as after a kill."""
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if not interrupted:
            shutil.rmtree(folder, ignore_errors=True)


def put_aside(path: Path) -> Path:
    """Where what stands at ``path`` waits for what takes its place."""
    return path.with_name(f".{path.name}{_PUT_ASIDE}{os.getpid()}")


def remove(found: Iterable[Path]) -> None:
    """Remove those files and folders that nobody holds. One that was put aside comes back where nothing took its place."""
    if fcntl is None:
        return
    for path in found:
        with suppress(OSError):
            if _is_held(path):
                continue
            age = time.time() - path.lstat().st_mtime
            if 0 <= age < _YOUNG:
                time.sleep(_YOUNG - age)
                if _is_held(path):
                    continue
            name, aside, _ = path.name[1:].partition(_PUT_ASIDE)
            if aside and not path.with_name(name).exists():
                os.replace(path, path.with_name(name))
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _is_held(path: Path) -> bool:
    """Whether a process writes there; raises OSError for a link and for what is not there."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def remove_of_run(out: Path) -> None:
    """Remove what killed processes left in a run's folder, in its caches, and of this user's in the system's temporary folder."""
    if fcntl is None:
        return
    work = out / ".work"
    inner = _folders(work)
    for folder in (out, *_folders(out), work, *inner, *(deep for one in inner for deep in _folders(one))):
        remove(_beside(folder))
    _remove_scratch()


@lru_cache(maxsize=2)  # once a process, in each place
def _remove_scratch(inside: Path | None = None) -> None:
    if fcntl is None:
        return
    temporary = inside or Path(tempfile.gettempdir())
    with suppress(OSError):
        remove([path for path in temporary.glob(f"{_SCRATCH}*") if path.lstat().st_uid == os.getuid()])


def _beside(folder: Path) -> list[Path]:
    """What is written beside its place in a folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        return [Path(one.path) for one in entries if one.name.startswith(".") and BESIDE in one.name]
    return []


def _folders(folder: Path) -> list[Path]:
    """The plain folders in a folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        named = (one for one in entries if not one.name.startswith("."))
        return sorted(Path(one.path) for one in named if one.is_dir(follow_symlinks=False))
    return []
