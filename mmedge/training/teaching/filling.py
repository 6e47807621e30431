"""A teacher's outputs for a whole split, computed by all processes, each a run of rows, and written into the same files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from mmedge.artifact import replacing
from mmedge.training.loop import processes
from mmedge.training.teaching.kept import joined, widened

# Rows that are computed together, by however many processes: what a teacher gives differs in the last bit with the batch.
_BATCH = 128


def fill(paths: Sequence[Path], count: int, compute: Callable[[np.ndarray], list[np.ndarray]]) -> None:
    """Write the ``.npy`` files ``paths`` of ``count`` rows each; ``compute(rows)`` gives an array for each of them.

    Every process calls this; the files are the same bit for bit for any number of them, and appear when all is written. Raises
    MmedgeError where there is no room for them.
    """
    batches = _own(count)
    parts = [compute(rows) for rows in batches]
    own = [joined(part) for part in zip(*parts, strict=True)]
    # Whether float16 reaches as far as it has to is known when all have computed.
    known = [each for each in processes.each([x[:0] for x in own]) if each]
    forms = [joined(each) for each in zip(*known, strict=True)]
    with ExitStack() as files:
        begun = []
        if processes.rank() == 0:
            begun = [_begun(files.enter_context(replacing(path)), x, count) for path, x in zip(paths, forms)]
        for (file, start), x, form in zip(processes.each(begun)[0], own, forms):
            with file.open("r+b") as stream:
                stream.seek(start + int(batches[0][0]) * form[:1].itemsize * int(np.prod(form.shape[1:])))
                stream.write(widened(x, form.dtype).reshape(-1).view(np.uint8).data)
        processes.wait()  # all have written before the files appear
    processes.wait()  # and go on when they have


def _own(count: int) -> list[np.ndarray]:
    """int64: of ``count`` rows those that this process computes, a batch each, one after another in the split."""
    starts = range(0, count, _BATCH)
    first, end = (len(starts) * (processes.rank() + step) // processes.count() for step in (0, 1))
    return [np.arange(start, min(start + _BATCH, count)) for start in starts[first:end]]


def _begun(path: Path, form: np.ndarray, count: int) -> tuple[Path, int]:
    """Write the header of an array of ``count`` rows: (the file, where its numbers begin)."""
    header = {
        "descr": np.lib.format.dtype_to_descr(form.dtype),
        "fortran_order": False,
        "shape": (count, *form.shape[1:]),
    }
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        return path, stream.tell()
