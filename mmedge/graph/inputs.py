"""From the data's tensors to what a foreign model takes: nodes that fill in, undo, reshape, turn and cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import UsageError
from mmedge.spec import ArraySpec, ImageSpec, ModalitySpec, SensorSpec

# ONNX's numbers of the types of whole numbers and booleans.
_WHOLE = (2, 3, 4, 5, 6, 7, 9, 12, 13)


@dataclass(frozen=True)
class ModalityInput:
    """A modality as the data gives it: its column in ``present``, and what stands in for it where it is absent.

    ``stand_in``: [*shape]; None where the model knows presence itself.
    """

    name: str
    spec: ModalitySpec
    column: int
    stand_in: np.ndarray | None


@dataclass(frozen=True)
class ModelInput:
    """What the model takes of a modality.

    ``name``: in the graph; ``type``: ONNX's number; ``shape``: the samples' as the model has it, but that its first axis comes
    last where ``turned``.
    """

    name: str
    type: int
    shape: tuple[int, ...]
    turned: bool


def layout_of(dims: Sequence[int | None], shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool] | None:
    """How samples of ``shape`` become an input of ``dims``: (their shape with or without a first axis of one, turned or not)."""
    leads = [shape, shape[1:]] if len(shape) > 1 and shape[0] == 1 else [shape, (1, *shape)]
    for lead in leads:
        for turned in (False, True):
            if _takes(dims, (*lead[1:], lead[0]) if turned else lead):
                return lead, turned
    return None


def _takes(dims: Sequence[int | None], shape: Sequence[int]) -> bool:
    """Whether an input of ``dims`` (the batch first, None: any size) takes samples of ``shape``."""
    return len(dims) == len(shape) + 1 and all(have in (None, want) for have, want in zip(dims[1:], shape))


def connected(graph: Any, given: ModalityInput, theirs: ModelInput, source: Path) -> tuple[list[Any], list[str]]:
    """(nodes that lead from the data's tensor to the model's input, notes on what they change); constants go into ``graph``.

    Raises UsageError where there is no way. ``source``: the model's file.
    """
    name, spec, before = given.name, given.spec, given.name
    added: list[Any] = []
    notes: list[str] = []
    if given.stand_in is not None:
        before = _filled(graph, added, name, given.column, given.stand_in.astype(spec.dtype))
    if theirs.type in _WHOLE and spec.dtype == "float32":
        before = _raw(graph, added, name, spec, before, source)
        notes.append(f"{name} is given in whole numbers, as the model takes it: before it was normalised")
    if theirs.shape != spec.shape:
        before = _reshaped(graph, added, name, before, theirs.shape)
        notes.append(f"{name} is given as [batch, {', '.join(map(str, theirs.shape))}], as the model takes it")
    _lead(added, name, spec, before, theirs)
    return added, notes


def _filled(graph: Any, added: list[Any], name: str, index: int, stand_in: np.ndarray) -> str:
    """Add what puts ``stand_in`` in place of an absent input; the name of the result."""
    from onnx import helper, numpy_helper

    constants = {
        "mean": stand_in[None],
        "at": np.array([index], np.int64),
        "to": np.array([-1] + [1] * stand_in.ndim, np.int64),
    }
    for part, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value, f"mmedge.{name}.{part}"))
    added += [
        helper.make_node("Gather", ["present", f"mmedge.{name}.at"], [f"mmedge.{name}.given"], axis=1),
        helper.make_node("Reshape", [f"mmedge.{name}.given", f"mmedge.{name}.to"], [f"mmedge.{name}.there"]),
        helper.make_node("Where", [f"mmedge.{name}.there", name, f"mmedge.{name}.mean"], [f"mmedge.{name}.filled"]),
    ]
    return f"mmedge.{name}.filled"


def _raw(graph: Any, added: list[Any], name: str, spec: ModalitySpec, before: str, source: Path) -> str:
    """Add what undoes a normalisation, so that a cast to whole numbers keeps the values; the name of the result.

    Pixels become 0 to 255 again. Raises UsageError for a kind whose values are no whole numbers before.
    """
    from onnx import helper, numpy_helper

    if not isinstance(spec, (ImageSpec, SensorSpec, ArraySpec)):
        raise UsageError(
            f"the model takes {name} in whole numbers, and the data gives {spec.kind} features, which are none",
            where=str(source),
            todo=f"give it as an array under teacher.preprocessing.{name}, or the model's outputs as teacher.outputs",
        )
    along = [-1 if len(spec.mean or ()) > 1 else 1, *(1 for _ in spec.shape[1:])]
    scale = 255.0 if isinstance(spec, ImageSpec) else 1.0
    std, mean = (np.array(values or (default,), np.float32) for values, default in ((spec.std, 1), (spec.mean, 0)))
    for part, value in (("std", std * scale), ("shift", mean * scale)):
        graph.initializer.append(numpy_helper.from_array(value.reshape(along)[None], f"mmedge.{name}.{part}"))
    steps = [("Mul", ["std"]), ("Add", ["shift"]), ("Round", [])]
    if isinstance(spec, ImageSpec):
        for part, limit in (("least", 0.0), ("most", scale)):
            graph.initializer.append(numpy_helper.from_array(np.array(limit, np.float32), f"mmedge.{name}.{part}"))
        steps.append(("Clip", ["least", "most"]))
    for operator, parts in steps:
        after = f"mmedge.{name}.{operator.lower()}"
        added.append(helper.make_node(operator, [before, *(f"mmedge.{name}.{part}" for part in parts)], [after]))
        before = after
    return before


def _reshaped(graph: Any, added: list[Any], name: str, before: str, shape: Sequence[int]) -> str:
    """Add what gives each sample another shape of as many numbers; the name of the result."""
    from onnx import helper, numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.array([-1, *shape], np.int64), f"mmedge.{name}.shape"))
    added.append(helper.make_node("Reshape", [before, f"mmedge.{name}.shape"], [f"mmedge.{name}.reshaped"]))
    return f"mmedge.{name}.reshaped"


def _lead(added: list[Any], name: str, spec: ModalitySpec, before: str, theirs: ModelInput) -> None:
    """Add what leads from the tensor ``before``, in the data's form, to the model's own input."""
    from onnx import helper

    if theirs.turned:
        perm = [0, *range(2, len(theirs.shape) + 1), 1]
        added.append(helper.make_node("Transpose", [before], [f"mmedge.{name}.turned"], perm=perm))
        before = f"mmedge.{name}.turned"
    if helper_type(spec.dtype) != theirs.type:
        added.append(helper.make_node("Cast", [before], [f"mmedge.{name}.cast"], to=theirs.type))
        before = f"mmedge.{name}.cast"
    added.append(helper.make_node("Identity", [before], [theirs.name]))


def helper_type(dtype: str) -> int:
    """ONNX's number of a NumPy type."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
