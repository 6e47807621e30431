"""A teacher's outputs that were computed elsewhere: a table or .npz of sample ids with logits or probabilities."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.data.manifest.table import read_columns
from mmedge.errors import MmedgeError, UsageError, did_you_mean
from mmedge.tasks import Head

# The file of an artifact.
OUTPUTS_FILE = "answers.npz"


@dataclass(frozen=True)
class StoredOutputs:
    """``logits``: float32 [N, classes] (regression: [N, 1] values) of the samples ``ids``.

    ``labels``: the classes of the columns; empty where the file does not name them, and for regression.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    logits: np.ndarray

    def contract(self, data: Contract) -> Contract:
        """The contract of what gave them, where ``data`` is the data's."""
        return data.with_labels(self.labels) if self.labels else data

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """int64 [len(ids)]: the row of each sample; -1 where there is none."""
        known = {sample: row for row, sample in enumerate(self.ids)}
        return np.array([known.get(sample, -1) for sample in ids], np.int64)


def read_outputs(path: Path, values: str, head: Head) -> StoredOutputs:
    """Read and check a file of outputs.

    A CSV, TSV, JSONL or Parquet table has the column ``id`` and one column a class, named by it (regression: one
    column); ``values`` says whether they are ``logits`` or ``probabilities``. An .npz has the arrays ``ids`` (text),
    ``labels`` (text, optional) and one of ``logits``, ``probabilities`` or, for regression, ``values``; nothing in it
    is unpickled. Raises MmedgeError where the file cannot be read, an id stands twice, or a value is no finite number.
    """
    if not path.is_file():
        raise MmedgeError("the file of the teacher's outputs does not exist", where=str(path))
    task = tasks.of(head)
    if path.suffix.lower() == ".npz":
        ids, labels, numbers, values = _of_npz(path, task.FILE_KINDS)
    else:
        ids, labels, numbers = _of_table(path)
        values = values if values in task.FILE_KINDS else task.FILE_KINDS[0]
    labels = task.file_labels(labels)
    if not task.file_labels(head.labels) and numbers.shape[1] != task.width(head):
        expected = "one output" if task.width(head) == 1 else f"{task.width(head)} outputs"
        raise MmedgeError(f"{head.task} has {expected} a sample, not {numbers.shape[1]}", where=str(path))
    if len(set(ids)) < len(ids):
        twice = next(sample for sample in ids if ids.count(sample) > 1)
        raise MmedgeError(f"the sample {twice!r} stands in the file twice", where=str(path))
    wrong = ~np.isfinite(numbers).all(axis=1)
    if wrong.any():
        raise MmedgeError(
            f"{int(wrong.sum())} samples have an output that is empty, NaN, infinite or no number",
            where=f"{path}, sample {ids[int(wrong.argmax())]}",
            todo="leave such samples out of the file: they are then not taught by this teacher",
        )
    return StoredOutputs(ids, labels, _outputs(numbers, values, ids, path, head))


def no_common_sample(stored: StoredOutputs, ids: Sequence[str], split: str) -> MmedgeError:
    """The error of a file that has none of a split's samples."""
    return MmedgeError(
        f"the file of the teacher's outputs and the {split} split have no sample in common",
        where=f"it has {stored.ids[0]!r} for example, the data {ids[0]!r}",
        todo="ids are those of DIR/data/{train,validation,test}.csv",
    )


def write_outputs(outputs: StoredOutputs, path: Path) -> None:
    """Write them into an artifact."""
    text = {"ids": np.array(outputs.ids, np.str_), "labels": np.array(outputs.labels, np.str_)}
    np.savez(path, logits=outputs.logits, **text)  # type: ignore[arg-type]  # numpy's stub takes no mapping


def stored_outputs(path: Path) -> StoredOutputs:
    """What ``write_outputs`` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return StoredOutputs(tuple(stored["ids"].tolist()), tuple(stored["labels"].tolist()), stored["logits"])


def _outputs(numbers: np.ndarray, values: str, ids: Sequence[str], path: Path, head: Head) -> np.ndarray:
    """What a file holds as the head's outputs, float32. What is declared wrongly is refused."""
    task = tasks.of(head)
    off = task.improbable(numbers)
    if values == "probabilities" and off.any():
        raise MmedgeError(
            f"a sample's probabilities are below 0{' or do not add up to 1' if task.EXCLUSIVE else ' or above 1'}",
            where=f"{path}, sample {ids[int(off.argmax())]}",
            todo="say 'values: logits' if that is what they are",
        )
    if values == "logits" and not off.any():
        raise UsageError(
            "these outputs are said to be logits, and every sample's are probabilities",
            where=str(path),
            todo="say 'values: probabilities'",
        )
    return np.ascontiguousarray(task.from_file(numbers, values), np.float32)


def _of_table(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    table = read_columns(path, "file of the teacher's outputs")
    if "id" not in table.columns:
        raise MmedgeError(
            f"no column 'id'{did_you_mean('id', table.columns)}; there are {', '.join(table.columns[:12])}",
            where=str(path),
            todo="ids are those of DIR/data/{train,validation,test}.csv",
        )
    labels = tuple(name for name in table.columns if name != "id")
    ids = tuple(table["id"].cast(polars.String).fill_null("").to_list())
    numbers = table.select(
        polars.col(name).cast(polars.Float64, strict=False).fill_null(float("nan")) for name in labels
    )
    return ids, labels, numbers.to_numpy()


def _of_npz(path: Path, kinds: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray, str]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays: dict[str, np.ndarray] = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise MmedgeError(
            f"the outputs cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            todo="save ids and labels as text arrays; mmedge unpickles nothing",
        ) from error
    named = [name for name in kinds if name in arrays]
    if "ids" not in arrays or len(named) != 1:
        raise MmedgeError(
            f"the file must have the arrays 'ids' and {' or '.join(map(repr, kinds))}; it has {', '.join(arrays)}",
            where=str(path),
        )
    ids = tuple(map(str, arrays["ids"].tolist()))
    numbers = np.asarray(arrays[named[0]], np.float64).reshape(len(arrays[named[0]]), -1)
    labels = tuple(map(str, arrays["labels"].tolist())) if "labels" in arrays else ()
    if len(ids) != len(numbers) or (labels and len(labels) != numbers.shape[1]):
        raise MmedgeError(
            f"{len(ids)} ids and {len(labels) or 'no'} labels do not fit {named[0]} of shape {list(numbers.shape)}",
            where=str(path),
        )
    return ids, labels, numbers, named[0]
