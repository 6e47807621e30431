"""Some towers of a graph alone: it takes what they see and gives their vectors, as a network of these towers would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmedge.contract import Contract
from mmedge.graph.cut import batch_sizes, expanded, finished, folded, shapes_of


def tower_graph(graph: Path, whole: Contract, alone: Contract, target: Path) -> None:
    """Write the graph of ``alone``, ``whole.only`` of some towers' modalities: ``present`` has a column for each of these.

    What the other towers would see is absent, so that what is computed of it is a constant and goes, and the columns of
    their vectors go too; so do other outputs than the vectors.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.shape_inference.infer_shapes(onnx.load(graph))
    (head,), kept = whole.heads, list(alone.modalities)
    inner, output = "mmedge.present", f"{head}.whole"
    for node in batch_sizes(model):
        node.input[0] = kept[0]
    for node in model.graph.node:
        node.input[:] = [inner if name == "present" else name for name in node.input]
        node.output[:] = [output if name == head else name for name in node.output]
    shapes, stored = shapes_of(model), model.graph.initializer
    kinds = {x.name: helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type) for x in model.graph.input}
    # A column of False behind those that are given stands for every modality that is not.
    order = [kept.index(name) if name in kept else len(kept) for name in whole.modalities]
    constants: dict[str, np.ndarray] = {"columns": np.array(order), "nobody": np.zeros((), bool)}
    constants["vectors"] = np.array(columns_of(whole, alone), np.int64)
    absent = [name for name in whole.modalities if name not in kept]
    constants |= {f"zero.{name}": np.zeros((), kinds[name]) for name in absent}
    stored.extend(numpy_helper.from_array(value, f"mmedge.{name}") for name, value in constants.items())
    made: list[Any] = [
        helper.make_node("Shape", [kept[0]], ["mmedge.batch"], "mmedge.batch", start=0, end=1),
        *expanded(model, "mmedge.nobody", "mmedge.nowhere", [1]),
        helper.make_node("Concat", ["present", "mmedge.nowhere"], ["mmedge.there"], "mmedge.there", axis=1),
        helper.make_node("Gather", ["mmedge.there", "mmedge.columns"], [inner], inner, axis=1),
    ]
    for name in absent:
        made += expanded(model, f"mmedge.zero.{name}", name, whole.modalities[name].shape)
    last = helper.make_node("Gather", [output, "mmedge.vectors"], [head], f"{head}.alone", axis=1)
    (found,) = [value for value in model.graph.output if value.name == head]
    found.type.tensor_type.shape.dim[1].dim_value = alone.width(head)
    (given,) = [value for value in model.graph.input if value.name == "present"]
    given.type.tensor_type.shape.dim[1].dim_value = len(kept)
    del model.graph.output[:]
    model.graph.output.append(found)
    finished(model, [*made, *model.graph.node, last], [*kept, "present"])
    folded(model, kept[0], whole.modalities[kept[0]].shape, shapes)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def columns_of(whole: Contract, alone: Contract) -> list[int]:
    """The columns of the whole output that are those of the towers alone."""
    (head,) = whole.heads.values()
    towers, (left,) = list(head.towers), alone.heads.values()
    starts = [towers.index(tower) * head.dimensions for tower in left.towers]
    return [start + column for start in starts for column in range(head.dimensions)]
