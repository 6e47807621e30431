"""Processes that begin views while another one trains, and the memory in which they hand them over.

They are started anew, not forked: a process that has run torch or ONNX Runtime holds threads, and does not survive a fork.
A task is some numbers of rows; samples are read from the store's mapped files, or from files that the task names. Arrays
that are in memory lie in a file without a name, as what is handed over does, so that nothing stays of a killed process.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmedge.data.store.rows import Rows
from mmedge.data.views import Asked, Begun, Views
from mmedge.errors import MmedgeError

# Batches that each worker has begun, or is to begin, and nobody has taken yet.
AHEAD = 2
# Where files are memory, where the system has such a place.
_MEMORY = Path("/dev/shm")
_ALIGNED = 64
# Whether another process can be given open files.
POSSIBLE = os.name == "posix" and bool(sys.executable)
# What a worker runs. Its threads are the cores that other workers are on.
_COMMAND = "import sys; sys.path[:] = {path!r}; from mmedge.data.workers import work; work({fd})"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class _Array:
    """An array in a file: where it begins, and what it is."""

    start: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def end(self) -> int:
        return self.start + int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def of(self, held: mmap.mmap) -> np.ndarray:
        """The array itself, which is the file's memory."""
        found: np.ndarray = np.ndarray(self.shape, self.dtype, held, self.start)
        return found


class Workers:
    """``count`` processes that begin ``views``, at most ``rows`` of them at once. To be closed; they end with this process, too."""

    def __init__(self, views: Views, count: int, rows: int, example: Begun) -> None:
        """``example``: of one row or more, which tells how much room a batch takes."""
        self.rows, self.count = rows, count
        self._slot = sum(_aligned(rows * x[:1].nbytes) for x in example.arrays.values())
        file = _reserved(max(1, self._slot * count * AHEAD))
        self._held = mmap.mmap(file.fileno(), 0)
        sent, arrays = _sent(views)
        self._workers = [_started(number, file, self._slot, sent, arrays) for number in range(count)]
        self.close = weakref.finalize(self, _ended, self._workers)

    def begun(self, asked: Iterable[Asked]) -> Generator[tuple[Asked, Begun], None, None]:
        """Each that is asked for and what was begun of it, in order; what that holds is another's once the next one is taken.

        Left early, the workers are closed. Raises MmedgeError where one of them dies.
        """
        coming, under_way, number = iter(asked), deque[tuple[int, Asked]](), 0
        try:
            while True:
                while len(under_way) < self.count * AHEAD and (task := next(coming, None)) is not None:
                    self._told(number, task)
                    under_way.append((number, task))
                    number += 1
                if not under_way:
                    return
                first, task = under_way[0]
                yield task, self._answer(first)
                under_way.popleft()
        finally:
            if under_way:
                self.close()

    def _told(self, number: int, task: Asked) -> None:
        with suppress(OSError):  # it has died, which is told when its answer is read
            self._workers[number % self.count][1].send((number // self.count % AHEAD, task))

    def _answer(self, number: int) -> Begun:
        process, pipe = self._workers[number % self.count]
        try:
            answer = pipe.recv()
        except (EOFError, OSError):
            raise self._died(process) from None
        if isinstance(answer, BaseException):
            raise answer
        arrays, unreadable = answer
        return Begun({name: x.of(self._held) for name, x in arrays.items()}, unreadable)

    def _died(self, process: subprocess.Popen[bytes]) -> MmedgeError:
        status = process.wait()
        how = f"ended with exit code {status}"
        with suppress(ValueError):
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else how
        return MmedgeError(
            f"a process that makes batches died: it {how}",
            where=f"data.batch_workers: {self.count}",
            todo="it may have lacked memory, or room in /dev/shm: set fewer workers, or a smaller batch",
        )


def _sent(views: Views) -> tuple[bytes, IO[bytes]]:
    """(views as a worker is sent them, the file that their arrays in memory lie in)."""
    arrays = {name: x for name, x in views.inputs.items() if not isinstance(x, Rows)}
    places, end = dict[str, _Array](), 1
    for name, x in arrays.items():
        places[name] = _Array(_aligned(end), x.shape, x.dtype.str)
        end = places[name].end
    file = _reserved(end)
    with mmap.mmap(file.fileno(), 0) as held:
        for name, place in places.items():
            place.of(held)[...] = arrays[name]
    stored = {name: x for name, x in views.inputs.items() if isinstance(x, Rows) and not x.streamed}
    return pickle.dumps(replace(views, inputs={**stored, **places})), file  # type: ignore[dict-item]  # see ``_received``


def _received(views: Views, file: int) -> Views:
    held = mmap.mmap(file, 0, prot=mmap.PROT_READ)
    return replace(views, inputs={n: x.of(held) if isinstance(x, _Array) else x for n, x in views.inputs.items()})


def _started(
    number: int, room: IO[bytes], slot: int, views: bytes, arrays: IO[bytes]
) -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = Pipe()
    files = [theirs.fileno(), room.fileno(), arrays.fileno()]
    command = [sys.executable, "-c", _COMMAND.format(path=sys.path, fd=theirs.fileno())]
    # A session of its own: Ctrl-C is for the process that trains, which ends its workers.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, pass_fds=files, start_new_session=True, env={**os.environ, **_ONE_THREAD}
    )
    theirs.close()
    with suppress(OSError):  # it has died already
        ours.send((files[1:], number * AHEAD * slot, slot))
        ours.send_bytes(views)
    return process, ours


def _aligned(place: int) -> int:
    return -(-place // _ALIGNED) * _ALIGNED


def _ended(workers: list[tuple[subprocess.Popen[bytes], Connection]]) -> None:
    for process, pipe in workers:
        process.kill()
        pipe.close()
    for process, _ in workers:
        process.wait()


def _reserved(size: int) -> IO[bytes]:
    """A file without a name that has so much room: in memory, or where that is too small on the disk."""
    for folder in (_MEMORY, None):
        file = _unnamed(folder)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
            return file
        except OSError as error:
            file.close()
            lacking = error
    raise MmedgeError(
        f"there is no room for the batches that are prepared: {lacking.strerror}",
        where=f"{_MEMORY} and {tempfile.gettempdir()}, {size / 1e6:.0f} MB",
        todo="set fewer data.batch_workers, or a smaller batch",
    )


def _unnamed(folder: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder if folder and os.access(folder, os.W_OK) else None)


def work(fd: int) -> None:
    """What a worker does: begin what it is asked for, until the pipe (an open file's number) is closed."""
    pipe = Connection(fd)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        (room, arrays), first, slot = pipe.recv()
        views: Views = _received(pickle.loads(pipe.recv_bytes()), arrays)
        held = mmap.mmap(room, 0)
        while True:
            number, asked = pipe.recv()
            try:
                answer: Any = _handed(views.begin(asked), held, first + number * slot, slot)
            except Exception as error:  # a user's file or folder; told by the process that trains
                answer = error
            pipe.send(answer)


def _handed(begun: Begun, held: mmap.mmap, start: int, room: int) -> tuple[dict[str, _Array], dict[int, str]]:
    """Write what was begun at a place of the memory: (where it is, what could not be read)."""
    found, end = {}, start + room
    for name, x in begun.arrays.items():
        found[name] = array = _Array(start, x.shape, x.dtype.str)
        assert array.end <= end, "a batch is larger than its example"
        array.of(held)[...] = x
        start = _aligned(array.end)
    return found, begun.unreadable
