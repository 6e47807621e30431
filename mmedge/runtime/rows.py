"""Rows of a table of samples: what the engine takes of each, and what it predicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmedge import tasks
from mmedge.artifact import replacing
from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError
from mmedge.preprocess.cells import value_of
from mmedge.runtime.engine import Engine
from mmedge.spec import ModalitySpec, TabularSpec
from mmedge.tasks import Prediction

Cells = Mapping[str, str | None]


@dataclass(frozen=True)
class Row:
    """``number`` from 1, as ``where`` tells it; ``cells``: {column: text, None where empty}."""

    number: int
    where: str
    cells: Cells


def columns_of(name: str, spec: ModalitySpec) -> tuple[str, ...]:
    """The columns that a modality reads; its own name where the bundle names none."""
    return spec.columns_read or (name,)


def absent_from(contract: Contract, columns: Mapping[str, Any]) -> list[str]:
    """The modalities that a table has no column of, and that so are missing in every row; UsageError where these are all."""
    absent = [
        name
        for name, spec in contract.modalities.items()
        if not set(columns_of(name, spec)[: None if isinstance(spec, TabularSpec) else 1]) & set(columns)
    ]
    if len(absent) == len(contract.modalities):
        wanted = {column for name, spec in contract.modalities.items() for column in columns_of(name, spec)}
        raise UsageError(
            f"the table has none of the bundle's columns: {', '.join(sorted(wanted))}",
            todo=f"name its columns so; it has {', '.join(list(columns)[:20])}",
        )
    return absent


def lacking(contract: Contract, columns: Mapping[str, Any]) -> list[str]:
    """What a table has no column of, and so is missing in every row: modalities, and columns of those that it has others of.

    UsageError where that is everything.
    """
    absent = absent_from(contract, columns)
    found = list(absent)
    for name, spec in contract.modalities.items():
        if name not in absent:
            found += [f"{column!r} of {name}" for column in columns_of(name, spec) if column not in columns]
    return found


def sample_of(contract: Contract, cells: Cells, folder: Path) -> dict[str, object]:
    """{modality: value} of those that a row has; relative paths are in ``folder``."""
    sample = {}
    for name, spec in contract.modalities.items():
        found = [cells.get(column) for column in columns_of(name, spec)]
        if any(cell is not None for cell in (found if isinstance(spec, TabularSpec) else found[:1])):
            sample[name] = value_of(spec, found, folder)
    return sample


def predicted(engine: Engine, row: Row, folder: Path) -> Prediction | MmedgeError:
    """What the engine predicts of a row; or what is wrong with it, so that others go on."""
    try:
        prediction: Prediction = engine.predict(**sample_of(engine.contract, row.cells, folder))
    except MmedgeError as error:
        return error
    return prediction


def arrays_of(prediction: Prediction) -> dict[str, np.ndarray]:
    """{head: the array that it predicts}; of a single head under no name."""
    found = {name: of_head.array for name, of_head in (prediction.heads or {"": prediction}).items()}
    return {name: array for name, array in found.items() if array is not None}


def write_arrays(prediction: Prediction, file: Path) -> list[Path]:
    """Write each array of a prediction as a .npy file: ``file``, or of several heads the same with .HEAD before its ending."""
    written = []
    for name, array in arrays_of(prediction).items():
        path = file.with_suffix(f".{name}.npy") if name else file
        with replacing(path) as temporary, temporary.open("wb") as stream:  # np.save would add an ending of its own
            np.save(stream, array)
        written.append(path)
    return written


def as_cells(prediction: Prediction, prefix: str = "") -> dict[str, str | float]:
    """A prediction as cells of a table: ``label`` and its ``probability``, ``labels``, ``rank``, ``value``, several values by name, an ``array``, or a vector a tower.

    Those of several heads are each under ``HEAD.``
    """
    if prediction.heads:
        parts = [as_cells(one, f"{name}.") for name, one in prediction.heads.items()]
        return {key: value for part in parts for key, value in part.items()}
    record = prediction.record()
    if prediction.embeddings is not None:
        return {f"{prefix}{tower}": json.dumps(vector) for tower, vector in prediction.embeddings.items()}
    if prediction.values is not None:
        return {f"{prefix}{name}": value for name, value in prediction.values.items()}
    if prediction.array is not None:
        return {f"{prefix}array": json.dumps(record["array"]), f"{prefix}length": record["length"]}
    probabilities = record.pop("probabilities", {})
    if prediction.labels is not None:
        record["labels"] = ";".join(prediction.labels)
    elif probabilities:
        record["probability"] = probabilities[prediction.label]
    return {f"{prefix}{name}": value for name, value in record.items()}


def cell_names(contract: Contract) -> list[str]:
    """The columns of ``as_cells``, whatever is predicted."""
    found = {
        name: tasks.of(head).predictions(np.ones((1, contract.width(name)), np.float32), head)[0]
        for name, head in contract.heads.items()
    }
    return list(as_cells(next(iter(found.values())) if len(found) == 1 else Prediction(heads=found)))
