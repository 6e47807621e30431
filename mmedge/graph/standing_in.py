"""What stands in for an absent input, exactly: a branch's answer to one constant keeps its error in every sample, in 8 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.graph.cut import BARE, inputs_of, without_stand_ins

PRESENT = "present"
# Of a graph's stored values, the share that a modality's constants may have: 8 bits save three quarters of them.
_MOST = 0.1


def fix(model: Any, sample: Mapping[str, np.ndarray]) -> bool:
    """Put behind each branch of an absent input what the float ``model`` gives for its stand-in; whether there is such a branch.

    A network that knows no presence gets the training mean in place of an absent input. Rounded, its branch errs on that by the
    same in every sample, which moves all answers one way; a Where by ``present``, where the branch meets the others, takes the
    constant instead. Computes the same in float. ``sample``: {input: [1, *shape]}. Inputs of a dynamic length are left, and those
    whose constants would take what 8 bits save, as where ids meet their mask in the scores of attention.
    """
    import onnx
    from onnx import helper, numpy_helper

    conditions = _stand_ins(model)
    meetings = _meetings(model, conditions) if conditions else {}
    if not meetings:
        return False
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    wanted = [name for name in {*meetings, *conditions.values()} if name not in outputs]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    absent = {name: np.zeros_like(x) for name, x in sample.items()}
    values = onnxruntime_cpu.session(probed.SerializeToString(), optimize=False)(absent)
    large, chosen = _large(meetings, values, model), dict[str, list[Any]]()
    for tensor, modality in meetings.items():
        value, condition = values[tensor], conditions[modality]
        if modality in large or value.dtype != np.float32 or len(value) != 1 or values[condition].size != 1:
            continue
        names = [f"{tensor}.{part}" for part in ("absent", "rank", "there", "chosen")]
        rank = np.array([-1, *(1 for _ in value.shape[1:])])
        model.graph.initializer.extend([numpy_helper.from_array(value, names[0]), numpy_helper.from_array(rank, names[1])])  # fmt: skip
        chosen[tensor] = [
            helper.make_node("Reshape", [condition, names[1]], [names[2]], names[2]),
            helper.make_node("Where", [names[2], tensor, names[0]], [names[3]], names[3]),
        ]
    nodes = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = f"{name}.chosen" if name in chosen else name
        nodes.append(node)
        nodes += [made for name in node.output for made in chosen.get(name, ())]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bool(chosen)


def _large(meetings: Mapping[str, str], values: Mapping[str, np.ndarray], model: Any) -> set[str]:
    """The modalities whose constants together have more than the share ``_MOST`` of the graph's stored values."""
    stored, sizes = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer), Counter[str]()
    for tensor, modality in meetings.items():
        sizes[modality] += values[tensor].size
    return {modality for modality, size in sizes.items() if size > _MOST * stored}


def _stand_ins(model: Any) -> dict[str, str]:
    """{input: the condition by which a constant stands in for it}, of inputs whose sizes but the batch are fixed."""
    reached, found = inputs_of(model), dict[str, str]()
    fixed = {
        value.name
        for value in model.graph.input
        if all(size.HasField("dim_value") for size in value.type.tensor_type.shape.dim[1:])
    }
    given = set(fixed)  # the inputs themselves, before anything is computed of them
    for node in model.graph.node:
        if node.op_type in BARE and node.input and node.input[0] in given:
            given.update(node.output)
        if node.op_type != "Where" or reached.get(node.input[0]) != {PRESENT} or reached.get(node.input[2]):
            continue
        if node.input[1] in given:
            found.setdefault(next(iter(reached[node.input[1]])), node.input[0])
    return found


def _meetings(model: Any, inputs: Mapping[str, str]) -> dict[str, str]:
    """{tensor: the one of ``inputs`` that it is computed of alone}, where others join it."""
    import onnx

    wiring = onnx.ModelProto()  # without the weights, which are not looked at
    wiring.graph.input.extend(model.graph.input)
    wiring.graph.node.extend(model.graph.node)
    alone = without_stand_ins(wiring, inputs)
    reached, made = inputs_of(alone), {name for node in alone.graph.node for name in node.output}
    found = dict[str, str]()
    for node in alone.graph.node:
        sources = frozenset().union(*(reached.get(name, frozenset()) for name in node.output))
        for name in node.input:
            of = reached.get(name, frozenset())
            if len(sources) > 1 and len(of) == 1 and of <= inputs.keys() and name in made:
                found[name] = next(iter(of))
    return found
