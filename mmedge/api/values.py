"""Values that ``forward`` takes as they are: for numbers or for ids, and what a recipe says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np

from mmedge.api.data import Columns, kind_of
from mmedge.api.networks import Network
from mmedge.errors import UnreadableData

# Ways to take whole numbers, for ids or for numbers, that are tried on a network.
_MOST_TRIED = 64


def few_of(part: Columns) -> dict[str, np.ndarray]:
    """{name: [2, *shape]} of the first samples that have everything; empty where values are raw."""
    rows = [row for row in range(len(part)) if all(values[row] is not None for values in part.inputs.values())][:2]
    try:
        return {name: np.stack([array_of(name, values[row]) for row in rows]) for name, values in part.inputs.items()}
    except (UnreadableData, ValueError):
        return {}


def tried(taker: Network, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the network gives for a few samples; nothing where it does not run: the run itself tells why, and where."""
    if not inputs:
        return {}
    try:
        return taker.call(inputs)
    except Exception:
        return {}


def array_of(name: str, value: Any) -> np.ndarray:
    """A tensor, an array or numbers, whole ones as they are, others as float32; raises UnreadableData for anything else."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "fiub":
        raise UnreadableData(
            f"the input {name!r} holds {kind_of(value)}, which is no array of numbers",
            todo=f"give what forward takes; or say how it is preprocessed: mmedge.samples(data, modalities={{{name!r}: {{'kind': 'image', …}}}})",
        )
    return np.ascontiguousarray(array, array.dtype if array.dtype.kind in "iu" else np.float32).reshape(array.shape)


def readings(values: np.ndarray) -> list[np.ndarray]:
    """What a network may take values [n, *shape] for, the likeliest first: numbers, float32, or ids, int64.

    Whole numbers of 32 bits and more are given as they are, smaller ones, as of pixels, rather as numbers; so is one
    number a sample, of shape [1].
    """
    whole = values.dtype.kind in "iu" and values.min(initial=0) >= 0
    number = (values if values.ndim > 1 else values[:, None]).astype(np.float32)
    if not whole:
        return [number]
    ids = values.astype(np.int64)
    if values.ndim == 1:
        return [number, ids, ids[:, None]]
    return [ids, number] if values.dtype.itemsize > 2 else [number, ids]


def taken(network: Network, inputs: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Of what each input [n, *shape] may be the first on which the network runs; the first of all where it runs on none,
    which the run itself tells."""
    for chosen in islice(product(*inputs.values()), _MOST_TRIED):
        given = dict(zip(inputs, chosen))
        if tried(network, given) or network.any_input:
            return given
    return {name: choices[0] for name, choices in inputs.items()}


def spec_of(name: str, parts: Mapping[str, Columns], taken: np.ndarray | None) -> dict[str, Any]:
    """The preprocessing of values that are what ``forward`` takes: none. ``taken``: some, as it takes them."""
    values = (value for part in parts.values() for value in part.inputs.get(name, ()) if value is not None)
    first = next(values, None)
    if first is None:
        raise UnreadableData(f"no sample has the input {name!r}", todo="leave it out")
    array = array_of(name, first)
    least, most = array.min(initial=0), array.max(initial=0)
    for value in map(partial(array_of, name), values):
        if value.shape != array.shape:
            raise UnreadableData(
                f"the input {name!r} has the shapes {list(array.shape)} and {list(value.shape)}",
                todo="bring all samples to one shape, as the model's preprocessing does",
            )
        least, most = min(least, value.min(initial=0)), max(most, value.max(initial=0))
    if taken is None:
        taken = readings(array[None])[0]
    spec = {"kind": "array", "shape": list(taken.shape[1:])}
    if taken.dtype.kind == "i" and least >= 0:
        return {**spec, "ids": max(2, int(most) + 1)}
    return {**spec, "mean": [0.0], "std": [1.0]}


def raw_value(value: Any) -> Any:
    """A raw value as a recipe's dataset gives it: pictures as arrays, Hugging Face's sounds as (samples, rate)."""
    if type(value).__module__.startswith("PIL."):
        return np.asarray(value)
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    if isinstance(value, Mapping) and "array" in value and "sampling_rate" in value:
        return np.asarray(value["array"], np.float32), int(value["sampling_rate"])
    return value
