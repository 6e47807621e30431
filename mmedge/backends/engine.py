"""A built engine as the manifests of artifacts and bundles describe it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmedge.artifact import sha256_of
from mmedge.contract import Contract
from mmedge.frozen import Record

# Of every input, its least shape, the one to optimise for, and its largest, batch axis and all.
Profiles = dict[str, list[list[int]]]


class Part(Record):
    """The engine of a subset of the modalities, or of a part: the graph that it was built of, beside the whole one."""

    graph: str
    graph_sha256: str
    profiles: Profiles


class Engine(Record):
    """What was built, with what a backend tells of its own beside it; files are relative to the graph's folder.

    ``version``: the builder's. ``batch``: the least and the largest. ``int8_layers``: the nodes that are built to compute
    in INT8, where the builder tells. ``version_compatible``: it runs on other versions, by code that it brings along.
    ``hardware_compatible``: it runs on GPUs of another ``compute_capability``. ``graph_sha256``,
    ``preprocessing_sha256``: what it belongs to. ``parts``: {file: the engine of a subset or part}.
    """

    file: str
    files: list[str] = []
    version: str
    precision: str | None = None
    batch: tuple[int, int] | None = None
    profiles: Profiles | None = None
    int8_layers: list[str] | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    compute_capability: str | None = None
    graph_sha256: str | None = None
    preprocessing_sha256: str | None = None
    parts: dict[str, Part] = {}
    notes: list[str] = []


def part_of(folder: Path, graph: str, built: Engine) -> Part:
    """What the whole engine's entry keeps of one that was built of ``graph``, relative to ``folder``."""
    own = {name: value for name, value in (built.model_extra or {}).items() if name in ("layers", "weight_types")}
    return Part(graph=graph, graph_sha256=sha256_of(folder / graph), profiles=built.profiles or {}, **own)


def profiles_of(contract: Contract, batch: Sequence[int] = (1, 1, 8)) -> Profiles:
    """Of every input of a bundle's graph: optimised for the whole length, where its length is dynamic.

    ``batch``: (least, optimised for, largest).
    """
    shapes = {name: [spec.shape] * 3 for name, spec in contract.modalities.items()}
    for name, spec in contract.modalities.items():
        if spec.shortest is not None:
            shapes[name][0] = (*spec.shape[:-1], spec.shortest)
    shapes["present"] = [(len(contract.modalities),)] * 3
    return {name: [[rows, *shape] for rows, shape in zip(batch, each)] for name, each in shapes.items()}
