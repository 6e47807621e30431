"""Arrays for a model of the user's own: what one call of its graph takes, read from .npz, .npy, a table, or ``module:build``."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mmedge.backends.session import TensorInfo
from mmedge.errors import MmedgeError, UsageError, did_you_mean
from mmedge.recipe.code import load_attribute

LABELS = ("label", "labels")
# {input: array with a row a call}, as a caller gives them, and what messages and reports call that.
Arrays = Mapping[str, np.ndarray]
GIVEN = "the arrays that were given"


@dataclass(frozen=True)
class Calls:
    """``inputs``: what the graph is fed with, a dict a call, every array with the graph's rank and dtype.

    ``labels``: int64 [calls] or None; ``places``: where each call's arrays come from, for messages.
    """

    inputs: list[dict[str, np.ndarray]]
    labels: np.ndarray | None
    places: list[str]

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: np.ndarray) -> Calls:
        """The calls of some rows, int64 [n]."""
        labels = None if self.labels is None else self.labels[rows]
        return Calls([self.inputs[row] for row in rows], labels, [self.places[row] for row in rows])


def read_calls(source: str | Arrays, infos: Mapping[str, TensorInfo], labels: Path | None = None) -> Calls:
    """The calls that ``source`` gives to a graph with the inputs ``infos``.

    ``source``: arrays; an .npz with an array an input; a folder of .npz files, a call or several each, or of one ``INPUT.npy``
    an input; a .csv with a column of .npy paths an input; or ``module:build``, a function that returns {input: array},
    with its labels as a pair, or an iterable of such dicts. An array holds one call more on its first axis: of a
    graph's rank where that axis is the batch, of one rank more where each call is whole; one that has just the graph's
    fixed shape is the same for every call. Labels are an array ``labels``, a column ``label``, or a file of their own;
    those of a folder's files are paired by a column that names the file, where the table of labels has one.

    Raises UsageError and MmedgeError with the input and the file where something does not fit.
    """
    path = Path(source) if isinstance(source, str) else Path()
    found = _found(source, path, infos) if isinstance(source, str) else [(GIVEN, _as_arrays(source))]
    whole = str(labels or (source if isinstance(source, str) else GIVEN))
    calls: list[dict[str, np.ndarray]] = []
    known: list[Any] = []
    places: list[str] = []
    for place, arrays in found:
        own = next((arrays.pop(name) for name in LABELS if name in arrays and name not in infos), None)
        parts = _split(arrays, infos, place)
        calls += parts
        places += [f"{place}, call {at}" if len(parts) > 1 else place for at in range(len(parts))]
        if own is not None:
            flat = own.reshape(-1)
            if len(flat) != len(parts):
                raise UsageError(f"{len(flat)} labels for {len(parts)} calls", where=place)
            known += flat.tolist()
    if labels is not None:
        known = _label_file(
            labels, [Path(place).name for place in places] if isinstance(source, str) and path.is_dir() else []
        )
    if known and len(known) != len(calls):
        raise UsageError(f"{len(known)} labels for {len(calls)} calls", where=whole)
    return Calls(calls, _classes(known, whole) if known else None, places)


def _found(source: str, path: Path, infos: Mapping[str, TensorInfo]) -> list[tuple[str, dict[str, np.ndarray]]]:
    """(place, its arrays) of all that a file, a folder or ``module:build`` holds."""
    if path.is_dir():
        return _folder(path, infos)
    if path.suffix.lower() == ".npz":
        return [(str(path), arrays_of(path))]
    if path.suffix.lower() in (".csv", ".tsv"):
        return _table(path, infos)
    if path.suffix.lower() == ".npy":
        return [(str(path), {_only(infos, path): _npy(path)})]
    if ":" in source and not path.exists():
        return _built(load_attribute(source, Path.cwd(), "dataset")(), source)
    if not path.exists():
        raise MmedgeError(
            "the data does not exist",
            where=source,
            todo="name an .npz, a folder of .npz or .npy files, a .csv, or module:build",
        )
    raise UsageError(
        f"data of {path.suffix or 'this kind'} is not read",
        where=source,
        todo="save the model's inputs as .npz or .npy",
    )


def _classes(values: list[Any], where: str) -> np.ndarray:
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"a label is not a class number: {error}",
            where=where,
            todo="number the classes as the columns of the model's output",
        ) from error
    if not np.isfinite(numbers).all() or (numbers != numbers.astype(np.int64)).any() or (numbers < 0).any():
        raise UsageError("labels must be class numbers from 0", where=where)
    return numbers.astype(np.int64)


def _label_file(path: Path, files: list[str]) -> list[Any]:
    """The labels of a file, in the order of the calls. ``files``: the name of each call's file, where it has one of its own."""
    if path.suffix.lower() in (".csv", ".tsv"):
        rows = _rows(path)
        name = next((name for name in LABELS if rows and name in rows[0]), None)
        if name is None:
            raise UsageError("the labels' table has no column 'label'", where=str(path))
        by_file = _named_files(rows, files)
        if by_file:
            return [by_file[file][name] for file in files]
        _check_order(files, path)
        return [row[name] for row in rows]
    _check_order(files, path)
    if path.suffix.lower() == ".npz":
        arrays = arrays_of(path)
        name = next((name for name in LABELS if name in arrays), next(iter(arrays)))
        return list(arrays[name].reshape(-1).tolist())
    return list(_npy(path).reshape(-1).tolist())


def _named_files(rows: list[dict[str, str]], files: list[str]) -> dict[str, dict[str, str]] | None:
    """{file: its row} where a column names every one of the files, with or without its folder and ending; else None."""
    for column in rows[0] if files and len(set(files)) == len(files) else ():
        names = [PurePosixPath((row[column] or "").replace("\\", "/")).name for row in rows]
        for key in (files, [Path(file).stem for file in files]):
            if len(set(names)) == len(names) and set(key) <= set(names):
                place = dict(zip(names, rows))
                return {file: place[name] for file, name in zip(files, key)}
    return None


def _check_order(files: list[str], labels: Path) -> None:
    """Raise UsageError where files with numbers in their names, sorted as text, are in another order than counted."""

    def counted(name: str) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    before, after = next(((a, b) for a, b in pairwise(files) if counted(a) > counted(b)), (None, None))
    if before is not None:
        raise UsageError(
            f"which label is which file's is not known: by name {before!r} comes before {after!r}, by number after it",
            where=str(labels),
            todo="give labels as a .csv with a column of file names and one called label",
        )


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz by their names; raises MmedgeError where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise MmedgeError("the data does not exist", where=str(path)) from None
    except Exception as error:  # numpy raises those of zipfile, of pickle and its own
        raise MmedgeError(f"the .npz cannot be read: {str(error).splitlines()[0]}", where=str(path)) from error


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise MmedgeError("a file of the data does not exist", where=str(path)) from None
    except Exception as error:  # as above
        raise MmedgeError(
            f"the array cannot be read: {str(error).splitlines()[0]}", where=str(path), todo="save it with numpy.save"
        ) from error


def _folder(folder: Path, infos: Mapping[str, TensorInfo]) -> list[tuple[str, dict[str, np.ndarray]]]:
    several = sorted(folder.glob("*.npz"))
    if several:
        return [(str(path), arrays_of(path)) for path in several]
    single = sorted(folder.glob("*.npy"))
    if not single:
        raise MmedgeError("the folder holds no .npz and no .npy file", where=str(folder))
    if {path.stem for path in single} & set(infos):
        return [(str(folder), {path.stem: _npy(path) for path in single})]
    only = _only(infos, folder)
    return [(str(path), {only: _npy(path)}) for path in single]


def _only(infos: Mapping[str, TensorInfo], where: Path) -> str:
    if len(infos) > 1:
        raise UsageError(
            f"the model takes {', '.join(infos)}; .npy files without their names cannot be told apart",
            where=str(where),
            todo="save .npz files with an array an input, or one INPUT.npy an input",
        )
    return next(iter(infos))


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return list(csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MmedgeError(f"the table cannot be read: {error}", where=str(path)) from error


def _table(path: Path, infos: Mapping[str, TensorInfo]) -> list[tuple[str, dict[str, np.ndarray]]]:
    rows = _rows(path)
    if not rows:
        raise MmedgeError("the table has no rows", where=str(path))
    missing = [name for name in infos if name not in rows[0]]
    if missing:
        raise UsageError(
            f"the table has no column {missing[0]!r}{did_you_mean(missing[0], rows[0])}; the model takes {', '.join(infos)}",
            where=str(path),
        )
    found = []
    for number, row in enumerate(rows, 2):
        arrays: dict[str, np.ndarray] = {}
        for name in infos:
            cell = row[name] or ""
            if cell.endswith(".npy"):
                arrays[name] = _npy(path.parent / cell)
            else:
                try:
                    arrays[name] = np.array(float(cell))
                except ValueError:
                    raise UsageError(
                        f"{cell!r} is no .npy file and no number",
                        where=f"{path}:{number}, column {name}",
                        todo="how this model preprocesses a file is not known: save its inputs as .npy, or use module:build",
                    ) from None
        for name in LABELS:
            if name in row and name not in infos:
                arrays[name] = np.array([row[name]])
        found.append((f"{path}:{number}", arrays))
    return found


def _built(result: Any, where: str) -> list[tuple[str, dict[str, np.ndarray]]]:
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Mapping):
        return [(where, {**_as_arrays(result[0]), "labels": np.asarray(result[1])})]
    if isinstance(result, Mapping):
        return [(where, _as_arrays(result))]
    if isinstance(result, Iterable):
        parts = list(result)
        if parts and all(isinstance(part, Mapping) for part in parts):
            return [(f"{where}, item {at}", _as_arrays(part)) for at, part in enumerate(parts)]
    raise UsageError(
        f"the function returned {type(result).__name__}",
        where=where,
        todo="return {input: array}, a pair of that and labels, or an iterable of {input: array}",
    )


def _as_arrays(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in arrays.items()}


def _split(
    arrays: Mapping[str, np.ndarray], infos: Mapping[str, TensorInfo], place: str
) -> list[dict[str, np.ndarray]]:
    """One set of arrays as calls; see ``read_calls``. A graph of mmedge's is told that everything is present, unless the data says."""
    presence = infos.get("present")
    if presence is not None and presence.dtype == np.dtype(bool) and len(presence.shape) == 2 and presence.shape[1]:
        arrays = {"present": np.ones(presence.shape[1], bool), **arrays}
    missing = [name for name in infos if name not in arrays]
    if missing:
        raise UsageError(
            f"the data has no input {missing[0]!r}{did_you_mean(missing[0], arrays)}; the model takes {', '.join(infos)}",
            where=place,
        )
    unknown = sorted(arrays.keys() - infos.keys())
    if unknown:
        raise UsageError(
            f"the model has no input {unknown[0]!r}{did_you_mean(unknown[0], infos)}; it takes {', '.join(infos)}",
            where=place,
        )
    ready = {name: _typed(name, arrays[name], info, place) for name, info in infos.items()}
    counts: dict[str, int] = {}
    for name, info in infos.items():
        value, rank = ready[name], len(info.shape)
        if value.ndim == rank + 1 and _fits(value.shape[1:], info.shape):
            counts[name] = len(value)
        elif value.ndim == rank and rank and info.shape[0] in (None, 1) and _fits(value.shape[1:], info.shape[1:]):
            counts[name] = len(value)
            ready[name] = value[:, None]
        elif value.ndim == rank - 1 and info.shape[0] in (None, 1) and _fits(value.shape, info.shape[1:]):
            ready[name] = value[None]
        elif not _fits(value.shape, info.shape):
            raise UsageError(
                f"the input {name!r} is an array of {list(value.shape)}; the model takes {_as_text(info.shape) if rank else 'a number, or declares no shape'}",
                where=place,
                todo="give one call more on the first axis"
                if rank
                else f"declare the shape of {name!r} in the ONNX file",
            )
    total = max(counts.values(), default=1)
    for name, count in counts.items():
        if count != total:
            raise UsageError(f"{count} calls of {name!r} and {total} of others", where=place)
    return [{name: ready[name][at] if name in counts else ready[name] for name in infos} for at in range(total)]


def _typed(name: str, value: np.ndarray, info: TensorInfo, place: str) -> np.ndarray:
    """The array in the graph's dtype, where no value changes by more than rounding; raises UsageError otherwise."""
    if value.dtype == info.dtype:
        return value
    floating = (np.issubdtype(value.dtype, np.floating), np.issubdtype(info.dtype, np.floating))
    whole = value.dtype.kind in "iufb" and np.array_equal(value, np.trunc(value))
    if value.dtype.kind in "iufb" and (
        floating == (True, True) or (whole and value.dtype.kind != "b" and value.ndim == 0)
    ):
        return value.astype(info.dtype)
    if value.dtype.kind in "iu" and info.dtype.kind in "iu" and np.array_equal(value.astype(info.dtype), value):
        return value.astype(info.dtype)
    raise UsageError(
        f"the input {name!r} is {value.dtype}; the model takes {info.dtype}",
        where=place,
        todo="convert it as the model's own preprocessing does",
    )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(want in (None, have) for have, want in zip(shape, wanted))


def _as_text(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
