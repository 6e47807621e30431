"""What a modality's files come to as they are: whether a store of what they hold or a stream is the better trade, a user can tell."""

from __future__ import annotations

import time
from pathlib import Path

import polars

from mmedge import preprocess
from mmedge.data.store.rows import evenly
from mmedge.data.store.tensors import jobs_of
from mmedge.errors import MmedgeError
from mmedge.preprocess.cells import value_of
from mmedge.preprocess.members import content
from mmedge.report.checked import FilesRecord
from mmedge.spec import ModalitySpec

# Files that are decoded to see how long that takes.
_TIMED = 16


def files_of(name: str, spec: ModalitySpec, table: polars.DataFrame, folder: Path) -> FilesRecord | None:
    """What the files of a modality come to, by some of them; None where none can be read."""
    jobs = jobs_of(name, spec, table)
    sizes, seconds = [], []
    for _, cells in (jobs[place] for place in evenly(len(jobs), _TIMED)):
        began = time.process_time()
        try:
            preprocess.raw_features(spec, value_of(spec, cells, folder), name)
            held = content(folder / cells[0])
            sizes.append((folder / cells[0]).stat().st_size if held is None else len(held))
        except (MmedgeError, OSError):  # told where all are looked at
            continue
        seconds.append(time.process_time() - began)
    if not sizes:
        return None
    return FilesRecord(bytes=len(jobs) * sum(sizes) // len(sizes), decode_ms=1e3 * sum(seconds) / len(seconds))
