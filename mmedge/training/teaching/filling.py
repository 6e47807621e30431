"""A teacher's outputs for a whole split, computed piece by piece by all processes, each a run of rows, and written into the same files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmedge.artifact import replacing
from mmedge.training.loop import processes
from mmedge.training.teaching.kept import joined, widened

# Rows that are computed together, by however many processes: what a teacher gives differs in the last bit with the batch.
_BATCH = 128
# Batches of a piece: what an interrupted run computes again at most.
_PIECE = 16


def fill(
    paths: Sequence[Path],
    count: int,
    compute: Callable[[np.ndarray], list[np.ndarray]],
    told: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the ``.npy`` files ``paths`` of ``count`` rows each; ``compute(rows)`` gives an array for each of them.

    Every process calls this, and ``compute`` equally often, since each may hold a part of the teacher: who has no rows left computes
    some again. What is computed is written, and not held. The files are the same bit for bit for any number of processes, and appear
    when all is written; pieces of them lie beside until then, and whoever is called again goes on with them. ``told`` hears how many
    rows are done. Raises MmedgeError where there is no room for them.
    """
    rows, size = range(count), _BATCH * _PIECE
    if count <= size:
        _fill(paths, rows, compute, told)
        return
    pieces = {start: [path.with_name(f"{path.stem}-from{start}.npy") for path in paths] for start in rows[::size]}
    for start, piece in pieces.items():
        if lacking(piece):
            _fill(piece, rows[start : start + size], compute, told)
    if processes.rank() == 0:
        for path, own in zip(paths, zip(*pieces.values())):
            _join(path, own, count)
    processes.wait()


def lacking(paths: Sequence[Path]) -> bool:
    """Whether one of the files is not there, as the main process sees it."""
    return processes.of_main(lambda: not all(path.is_file() for path in paths))


def _join(path: Path, pieces: Sequence[Path], count: int) -> None:
    """Write the file of ``count`` rows from its pieces, each of which goes when it is written: there may be no room for both."""
    form = joined([np.load(piece, mmap_mode="r")[:0] for piece in pieces])
    with replacing(path) as beside:
        file = _File(*_header(beside, form, count), form)
        first = 0
        for piece in pieces:
            rows = np.load(piece, mmap_mode="r")
            for start in range(0, len(rows), _BATCH):
                file.write(first + start, rows[start : start + _BATCH])
            first += len(rows)
            del rows
            piece.unlink()


def _fill(
    paths: Sequence[Path], rows: range, compute: Callable[[np.ndarray], list[np.ndarray]], told: Callable[[int], None]
) -> None:
    """The files of some of the rows, at once."""
    count = len(rows)
    own, files = _own(count), list[_File]()
    with ExitStack() as stack:
        for step in range(-(-count // (_BATCH * processes.count()))):
            told(rows.start + step * _BATCH * processes.count())
            mine = step < len(own)
            found = compute(rows.start + (own[step] if mine else np.arange(min(_BATCH, count))))
            files = files or _begun(stack, paths, count, _widest([x[:0] for x in found]))
            for file, x in zip(files, found, strict=True):
                if mine:
                    file.write(int(own[step][0]), x)
        # Whether float16 reaches as far as it has to is known when all have computed.
        forms = _widest([file.reached for file in files])
        short = [n for n, (file, form) in enumerate(zip(files, forms)) if file.form.dtype != form.dtype]
        wider = _begun(stack, [files[n].path for n in short], count, [forms[n] for n in short])
        for n, file in zip(short, wider):
            files[n].copy(file, own)
        processes.wait()  # all have written before the files appear
    processes.wait()  # and go on when they have
    told(rows.stop)


def _own(count: int) -> list[np.ndarray]:
    """int64: of ``count`` rows those that this process computes, a batch each, one after another in the split."""
    starts = range(0, count, _BATCH)
    first, end = (len(starts) * (processes.rank() + step) // processes.count() for step in (0, 1))
    return [np.arange(start, min(start + _BATCH, count)) for start in starts[first:end]]


def _widest(own: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays without rows, in dtypes that reach as far as those of any process."""
    return [joined(each) for each in zip(*processes.each(own), strict=True)]


@dataclass
class _File:
    """A file that all processes write to. ``start``: where its numbers begin; ``form``: an array without rows, in its dtype.

    ``late``: {first row: rows that the dtype does not reach}.
    """

    path: Path
    start: int
    form: np.ndarray
    late: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def reached(self) -> np.ndarray:
        """The form in a dtype that reaches all that is known."""
        return joined([self.form, *(x[:0] for x in self.late.values())])

    @property
    def _row(self) -> int:
        """Bytes of a row."""
        return self.form.dtype.itemsize * int(np.prod(self.form.shape[1:]))

    def write(self, first: int, x: np.ndarray) -> None:
        """Write rows from ``first`` on, or keep them for a wider file."""
        if joined([self.form, x[:0]]).dtype != self.form.dtype:
            self.late[first] = x
            return
        with self.path.open("r+b") as stream:
            stream.seek(self.start + first * self._row)
            stream.write(widened(x, self.form.dtype).reshape(-1).view(np.uint8).data)

    def copy(self, wider: _File, batches: Sequence[np.ndarray]) -> None:
        """Give the rows of ``batches`` to a file of a dtype that reaches them all."""
        for rows in batches:
            first = int(rows[0])
            wider.write(first, self.late[first] if first in self.late else self._read(first, len(rows)))

    def _read(self, first: int, count: int) -> np.ndarray:
        with self.path.open("rb") as stream:
            stream.seek(self.start + first * self._row)
            return np.frombuffer(stream.read(count * self._row), self.form.dtype).reshape(count, *self.form.shape[1:])


def _begun(stack: ExitStack, paths: Sequence[Path], count: int, forms: Sequence[np.ndarray]) -> list[_File]:
    """The files of ``count`` rows each, begun by the main process, that take the places of ``paths`` when the block ends."""
    begun = []
    if processes.rank() == 0:
        begun = [_header(stack.enter_context(replacing(path)), form, count) for path, form in zip(paths, forms)]
    return [_File(*place, form) for place, form in zip(processes.each(begun)[0], forms)]


def _header(path: Path, form: np.ndarray, count: int) -> tuple[Path, int]:
    """Write the header of an array of ``count`` rows: (the file, where its numbers begin)."""
    header = {
        "descr": np.lib.format.dtype_to_descr(form.dtype),
        "fortran_order": False,
        "shape": (count, *form.shape[1:]),
    }
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        return path, stream.tell()
