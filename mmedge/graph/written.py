"""The two graphs of a network that writes a text, side by side in one file: see ``backends.writing``."""

from __future__ import annotations

import json
from typing import Any

from mmedge.backends.writing import KEY, Writing


def joined(beginning: Any, step: Any, how: Writing) -> Any:
    """One model of both, whose metadata say how it is written. What has one name in both and is not the same gets another."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(beginning)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = {*stored, *(name for node in model.graph.node for name in (node.name, *node.output))}
    shared = {t.name for t in step.graph.initializer if t.name in stored and t == stored[t.name]}
    own = {value.name for value in (*step.graph.input, *step.graph.output)}

    def named(name: str) -> str:
        return f"step.{name}" if name in taken and name not in shared and name not in own else name

    for tensor in step.graph.initializer:
        if tensor.name not in shared:
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = named(tensor.name)
    for node in step.graph.node:
        added = model.graph.node.add()
        added.CopyFrom(node)
        added.name = named(node.name)
        added.input[:], added.output[:] = map(named, node.input), map(named, node.output)
    model.graph.input.extend(step.graph.input)
    model.graph.output.extend(step.graph.output)
    onnx.helper.set_model_props(model, {KEY: json.dumps(how.record())})
    return model
