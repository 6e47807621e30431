"""A run's folder: nobody else may look into what it caches, and one process at a time writes there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmedge.errors import MmedgeError
from mmedge.leftovers import remove_of_run


def private(folder: Path) -> None:
    """Make a folder that nobody else on the machine can look into: caches hold the user's samples."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep a run's folder to this process, until it ends, however it ends.

    Raises MmedgeError where another process has it: both would write the same files, and read what the other replaces.
    """
    private(out / ".work")
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    with (out / ".work" / "lock").open("a") as file:  # "w" would touch it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MmedgeError(
                "another mmedge is at work in this folder",
                where=str(out),
                todo="wait until it ends, or name another --out",
            ) from None
        except OSError:  # a file system without locks: whether another one is at work is not known
            yield
            return
        remove_of_run(out)
        yield
