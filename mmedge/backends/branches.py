"""Which modality a node or a layer serves: the one whose input alone reaches it, or the fusion."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mmedge.backends.onnxfile import Node

FUSION = "fusion"


def branch_of_nodes(nodes: Sequence[Node], inputs: Sequence[str]) -> dict[str, str]:
    """{node name: the one modality that reaches it, or ``fusion`` where several do, or none}.

    ``present`` belongs to no branch: it is everywhere. ``nodes`` are in topological order.
    """
    reached: dict[str, frozenset[str]] = {name: frozenset({name}) - {"present"} for name in inputs}
    branches = {}
    for node in nodes:
        sources = frozenset().union(*(reached.get(name, frozenset()) for name in node.inputs))
        if node.inputs:  # OpenVINO has a node for each input, too
            reached |= dict.fromkeys(node.outputs, sources)
        branches[node.name] = next(iter(sources)) if len(sources) == 1 else FUSION
    return branches


def branch_of_layer(text: str, branches: Mapping[str, str]) -> str:
    """The one branch of all nodes that ``text`` names as whole words, ``fusion`` where they are of several or none."""
    found = {branches[word] for word in re.split(r"\.\.\.|[\s+,;:\[\](){}\x1e]+", text) if word in branches}
    return next(iter(found)) if len(found) == 1 else FUSION
