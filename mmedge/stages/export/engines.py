"""The engines of a backend, built from verified graphs: of the whole graph, of subsets and of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmedge import backends
from mmedge.backends import Backend, Options
from mmedge.backends.backend import Job
from mmedge.backends.engine import Engine, Part, Profiles, part_of, profiles_of
from mmedge.bundle import belonging
from mmedge.contract import Contract
from mmedge.errors import MismatchError
from mmedge.graph import qdq
from mmedge.report.schema import MissRecord
from mmedge.training.context import Context


@dataclass(frozen=True)
class ExportWork:
    """What the engines of one backend are made for. ``notes`` gets what a reader must know of them, ``misses`` what was
    required of them in vain."""

    backend: Backend
    options: Options
    contract: Contract
    context: Context
    notes: list[str]
    misses: list[MissRecord] = field(default_factory=list)

    @property
    def required(self) -> str | None:
        """The precision that ``quantize.require`` asks for, where the backend has it and the recipe names no other for it."""
        config = self.context.recipe.quantize
        required = config.require if config and not self.options.precision else None
        return None if required in self.backend.lacks else required

    @property
    def profiles(self) -> Profiles:
        """Of the whole graph's inputs, in the batches that the recipe asks for."""
        return profiles_of(self.contract, (1, self.options.best_batch, self.options.max_batch))

    def job(self, graph: Path, stem: str, profiles: Profiles, precision: str | None = None) -> Job:
        """What is to be built; timings are kept beside the runs, where they outlive this one."""
        timings = self.context.work.parent / f"{self.backend.name}.timing-cache"
        return Job(graph, stem, profiles, self.options, precision, timings)


def build(work: ExportWork, graph: Path, precision: str) -> Engine | None:
    """Build the engine of the whole graph beside it. None: the backend runs the graph."""
    if work.backend.build is None:
        return None
    built = backends.built(work.backend, work.job(graph, "engine", work.profiles, precision))
    work.notes.extend(built.notes)
    if precision == "int8" and built.int8_layers is not None:
        check_int8_layers(graph, built.int8_layers, work.backend.name)
    kept = Engine.model_validate({name: value for name, value in built.record().items() if name != "notes"})
    return belonging(kept, precision, graph, work.contract)


def build_part(work: ExportWork, folder: Path, graph: str, profiles: Profiles) -> tuple[str, Part] | None:
    """Build the engine of a subset or a part beside ``graph`` in ``folder``: its file, and what the bundle remembers of it.

    None: the backend runs the graph.
    """
    if work.backend.build is None or work.backend.runs_graphs:
        return None
    built = backends.built(work.backend, work.job(folder / graph, Path(graph).stem, profiles))
    return Path(graph).with_name(built.file).as_posix(), part_of(folder, graph, built)


def check_int8_layers(graph: Path, built: Sequence[str], name: str) -> None:
    """Raise MismatchError where the network that was built has a layer in float that the graph has in INT8."""
    import onnx

    wanted = {layer.name: layer.label for layer in qdq.layers(onnx.load(graph)) if layer.kind in qdq.WEIGHTED}
    missing = [label for node, label in wanted.items() if node not in built]
    if missing:
        raise MismatchError(
            f"{len(missing)} of {len(wanted)} layers that the graph has in INT8 are float in the {name} network: {', '.join(missing[:8])}",
            where=str(graph),
            todo=f"declare them: quantize.ignore: [{', '.join(missing[:8])}]",
        )
