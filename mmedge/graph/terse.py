"""A graph in as few bytes as its format allows: for engines of kilobytes, of which names are the larger part."""

from __future__ import annotations

import itertools
import string
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmedge.graph.export import strip
from mmedge.graph.wiring import graphs_of, read_by, renamed

# Lists of these that ONNX's specification fills with one number where they are not given.
_WINDOWS = ("Conv", "ConvTranspose", "AveragePool", "MaxPool")
_FILLED = {"dilations": 1, "strides": 1, "pads": 0}


def shorten(file: Path) -> None:
    """Take out of a graph's file what no runtime needs: nodes lose their names, inner tensors get short ones, attributes
    that say what is so without them go. Inputs and outputs keep their names."""
    import onnx

    model = strip(onnx.load(file))
    graph = model.graph
    model.producer_name = model.producer_version = model.doc_string = graph.doc_string = ""
    graph.name, opsets = "g", {each.domain: each.version for each in model.opset_import}
    kept = {value.name for value in [*graph.input, *graph.output]}
    inner = [name for node in graph.node for name in node.output] + [tensor.name for tensor in graph.initializer]
    names = dict(zip((name for name in inner if name and name not in kept), _short(kept | _inside(graph))))
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.name = ""
        node.output[:] = [names.get(name, name) for name in node.output]
        _without_defaults(node, opsets)
    renamed(graph, names)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)


def _short(taken: Collection[str]) -> Iterator[str]:
    """Names of a letter, of two, and so on, but those that are ``taken``."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            if (name := "".join(letters)) not in taken:
                yield name


def _inside(graph: Any) -> set[str]:
    """Every name in the branches and bodies inside a graph's nodes, which a new one must not hide."""
    found: set[str] = set()
    for inner in (each for node in graph.node for each in graphs_of(node)):
        found |= {value.name for value in [*inner.input, *inner.output, *inner.initializer]}
        found |= {name for node in inner.node for name in (*node.output, *read_by(node))} | _inside(inner)
    return found


def _without_defaults(node: Any, opsets: Mapping[str, int]) -> None:
    """Remove, in place, the attributes of a node whose value is the one that ONNX gives where they are missing."""
    from onnx import defs

    if not defs.has(node.op_type, node.domain) or node.domain not in opsets:
        return
    schema = defs.get_schema(node.op_type, opsets[node.domain], node.domain)
    kept = [each for each in node.attribute if not _is_default(each, node, schema)]
    del node.attribute[:]
    node.attribute.extend(kept)


def _is_default(attribute: Any, node: Any, schema: Any) -> bool:
    if node.op_type in _WINDOWS and attribute.name in _FILLED:
        return set(attribute.ints) == {_FILLED[attribute.name]}
    known = schema.attributes.get(attribute.name)
    return known is not None and attribute == known.default_value
