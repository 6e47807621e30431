"""What ships of a retrieval beside its whole engine, or in its place: some towers alone, and the vectors of labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmedge import preprocess
from mmedge.artifact import GRAPH
from mmedge.backends import GRAPH_BACKEND, onnxruntime_cpu
from mmedge.contract import Contract, subsets
from mmedge.errors import MismatchError
from mmedge.graph.towers import columns_of, tower_graph
from mmedge.measure.agreement import SAME, agreements
from mmedge.stages.export import engines
from mmedge.stages.export.engines import ExportWork
from mmedge.stages.export.verification import TOLERANCES
from mmedge.stages.results import TowersRecord
from mmedge.tasks.retrieval import ZeroShot, reading

# Where the towers lie in the artifact, and the labels' vectors there and in the bundle.
FOLDER = "towers"
VECTORS = "labels.npy"


def alone(work: ExportWork, precision: str) -> TowersRecord | None:
    """Cut, verify and build the engine of ``export.towers``; None where all ship together."""
    names = work.context.recipe.export.towers
    if not names:
        return None
    (head,) = work.contract.heads.values()
    contract = work.contract.only([name for tower in names for name in head.towers[tower]])
    (work.context.folder / FOLDER).mkdir(exist_ok=True)  # of a candidate before, which was not taken
    graph = work.context.folder / FOLDER / GRAPH
    tower_graph(work.context.folder / GRAPH, work.contract, contract, graph)
    _check(work, contract, graph, precision)
    engine = engines.build(replace(work, contract=contract), graph, precision)
    work.notes.append(f"{', '.join(names)} alone ships; figures are those of all towers together")
    told = {"contract": contract.model_dump(mode="json", by_alias=True)}
    return TowersRecord.model_validate(told | ({"engine": engine} if engine else {}))


def _check(work: ExportWork, contract: Contract, graph: Path, precision: str) -> None:
    """Raise MismatchError where the towers alone give other vectors than in the whole graph, whatever is absent."""
    (head,), whole = work.contract.heads, work.contract
    places = [list(whole.modalities).index(name) for name in contract.modalities]
    columns, optimize = columns_of(whole, contract), precision != "int8"
    sessions = [onnxruntime_cpu.session(file, optimize=optimize) for file in (work.context.folder / GRAPH, graph)]

    def of_whole(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(inputs["present"])
        blank = {name: np.zeros((rows, *spec.shape), spec.dtype) for name, spec in whole.modalities.items()}
        present = np.zeros((rows, len(whole.modalities)), bool)
        present[:, places] = inputs["present"]
        return {head: sessions[0]({**blank, **inputs, "present": present})[head][:, columns]}

    samples = work.context.dataset.test.only(tuple(contract.modalities))
    relative = 1e-4 if precision != "fp16" else TOLERANCES["fp16"][0]
    for subset in subsets(tuple(contract.modalities)):
        present = samples.present_of(subset)
        for found in agreements("+".join(subset), of_whole, sessions[1], contract, samples, present):
            if not found.within(relative, SAME):
                raise MismatchError(
                    f"the towers alone differ from the whole graph by {found.max_abs:.3g} with {found.subset}",
                    where=str(graph),
                    todo="leave out export.towers for this model, and report its graph",
                )


def labels(work: ExportWork) -> ZeroShot | None:
    """Write the vectors of the labels that ``export.zero_shot`` declares, by the whole graph; None where it declares none."""
    wanted, ships = work.context.recipe.export.zero_shot, work.context.recipe.export.towers
    if wanted is None:
        return None
    if work.backend.name != GRAPH_BACKEND:
        work.notes.append(f"the labels' vectors are those that {GRAPH_BACKEND} gives")
        return None
    ((name, head),) = work.contract.heads.items()
    # Of two towers that read texts the one that does not ship: what ships alone asks.
    tower = min(reading(head.towers, work.contract.kinds), key=lambda each: each in ships)
    (text,), rows = head.towers[tower], len(wanted.labels)
    inputs = {
        other: np.zeros((rows, *spec.shape), spec.dtype)
        for other, spec in work.contract.modalities.items()
        if other != text
    }
    texts = [wanted.template.replace("{}", label) for label in wanted.labels]
    inputs[text] = np.stack([preprocess.tensor(work.contract.modalities[text], each, text) for each in texts])
    inputs["present"] = np.tile([other == text for other in work.contract.modalities], (rows, 1))
    found = onnxruntime_cpu.session(work.context.folder / GRAPH)(inputs)[name]
    vectors = found.reshape(rows, len(head.towers), -1)[:, list(head.towers).index(tower)]
    np.save(work.context.folder / VECTORS, np.ascontiguousarray(vectors, np.float32))
    return ZeroShot(labels=list(wanted.labels), template=wanted.template, file=VECTORS, tower=tower)
