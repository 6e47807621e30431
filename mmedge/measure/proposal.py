"""A student for a budget: built-in networks of a few kinds and sizes, built, counted and timed, and one of them chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmedge.backends import opened
from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.graph.export import export
from mmedge.graph.trace import generated
from mmedge.leftovers import scratch
from mmedge.measure.cost import macs, params
from mmedge.measure.latency import Latencies, time_sessions
from mmedge.models import load
from mmedge.progress import Progress
from mmedge.recipe import Budget, Encoder, Measure, Model
from mmedge.spec import ModalitySpec

# Kinds of encoders of maps; other modalities have their first.
_KINDS = ("conv", "resnet", "mobilenet")
_MAPS = ("image", "audio", "video")
_SCALES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
_STAGES, _SEQUENCE, _ONE, _JOINT = (16, 32, 48, 64, 96), (24, 48), (32,), 32
# What is left of a map before the last layer, about, a side.
_LEFT = 4
# Bytes of a graph a parameter, at least: four, less what the export folds into other weights (norms, some thousandths).
_BYTES = 3.8
_TEACHER = "teacher"


@dataclass(frozen=True)
class Candidate:
    """One network of the table. ``size_kb``, ``ms``: of its graph, where the budget needs them and what is known before allows it."""

    name: str
    model: Model
    params: int
    macs: int
    size_kb: float | None = None
    ms: float | None = None

    def __str__(self) -> str:
        more = [
            *([f"{self.size_kb:.0f} KB"] if self.size_kb is not None else []),
            *([f"{self.ms:.3f} ms"] if self.ms is not None else []),
        ]
        counted = f"{self.params:,} parameters, {self.macs / 1e6:.2f} M multiply-accumulates"
        return f"{self.name}: {', '.join([counted, *more])}"


@dataclass(frozen=True)
class Setting:
    """``contract``: the student's; ``backend``: what times; ``teacher``: makes the teacher's untrained network, for ``ratio``."""

    contract: Contract
    backend: str
    measure: Measure
    teacher: Callable[[], tuple[nn.Module, Contract]]


def proposed(model: Model, budget: Budget, setting: Setting, progress: Progress) -> Model:
    """``model`` with encoders and widths inside ``budget``, and why these, in ``proposed``.

    Of what fits the network with the most multiply-accumulates is taken: parameters, bytes or milliseconds are what is
    short, and what is computed within them is what is had for them. Raises UsageError where nothing fits.
    """
    table, teacher_ms = measured(model, budget, setting, progress)
    limits = {
        "latency_ms": budget.latency_ms,
        "ratio": budget.ratio and teacher_ms and budget.ratio * teacher_ms,
        "params": budget.params,
        "size_kb": budget.size_kb,
    }

    def fits(one: Candidate) -> bool:
        figures = {"latency_ms": one.ms, "ratio": one.ms, "params": one.params, "size_kb": one.size_kb}
        return all(limit is None or _within(figures[name], limit) for name, limit in limits.items())

    able = [one for one in table if fits(one)]
    asked = ", ".join(f"{name} {value:g}" for name, value in budget.model_dump().items() if value is not None)
    if not able:
        least = min(table, key=lambda one: one.params)
        raise UsageError(
            f"no built-in network keeps the budget ({asked}); the smallest is {least}",
            where="distill.budget",
            todo="allow more, or name encoders and widths yourself: distill.model",
        )
    best = max(able, key=lambda one: one.macs)
    others = "; ".join(
        map(str, sorted((one for one in table if one is not best), key=lambda one: abs(one.macs - best.macs))[:3])
    )
    why = f"student proposed for {asked}: {best}; of {len(able)} networks of {len(table)} inside the budget it computes most; beside it {others}"
    if budget.timed:
        why += f" (timed on {setting.backend}{f', the teacher {teacher_ms:.2f} ms' if teacher_ms else ''})"
    return best.model.model_copy(update={"proposed": why})


def _within(figure: float | None, limit: float) -> bool:
    """What was not measured could not keep another limit."""
    return figure is not None and figure <= limit


def measured(
    model: Model, budget: Budget, setting: Setting, progress: Progress
) -> tuple[list[Candidate], float | None]:
    """The table, and the teacher's median in milliseconds where the budget needs it.

    All are counted, which takes next to nothing; those that can keep the budget yet are exported, seconds each; of those,
    the ones that are small enough are timed.
    """
    table = _counted(model, setting, progress)
    if not budget.timed and budget.size_kb is None:
        return table, None
    with scratch() as folder:
        sized = _sized(folder, table, budget, setting, progress)
        graphs = {name: graph for name, (graph, kb) in sized.items() if kb <= (budget.size_kb or math.inf)}
        table = [replace(one, size_kb=sized[one.name][1]) if one.name in sized else one for one in table]
        if not budget.timed or not graphs:
            return table, None
        own = {}
        if budget.ratio is not None:
            module, contract = setting.teacher()
            graphs |= {_TEACHER: folder / "teacher.onnx"}
            export(module.eval(), contract, graphs[_TEACHER])
            own[_TEACHER] = _call(contract)
        taken = _timed(graphs, own, setting, progress)
        table = [replace(one, ms=taken.timing(one.name).p50_ms) if one.name in graphs else one for one in table]
        return table, taken.timing(_TEACHER).p50_ms if own else None


def _counted(model: Model, setting: Setting, progress: Progress) -> list[Candidate]:
    """Every network of the table, by what its layers tell."""
    found, every = [], list(_models(model, setting.contract))
    for number, (name, section) in enumerate(every):
        progress.step("proposing a student: counting", number + 1, len(every), name)
        module = load.build(section, setting.contract).eval()
        found.append(Candidate(name, section, params(module), macs(module, setting.contract)))
    return found


def _sized(
    folder: Path, table: list[Candidate], budget: Budget, setting: Setting, progress: Progress
) -> dict[str, tuple[Path, float]]:
    """{name: its graph and the graph's kilobytes} of those whose parameters can keep the budget; of the smallest where none can."""
    most = min(budget.params or math.inf, (budget.size_kb or math.inf) * 1000 / _BYTES)
    able = [one for one in table if one.params <= most]
    if not able and budget.size_kb is not None:  # it is what is told then
        able = [min(table, key=lambda one: one.params)]
    found = {}
    for number, one in enumerate(able):
        progress.step("proposing a student: exporting", number + 1, len(able), one.name)
        torch.manual_seed(0)
        graph = folder / f"{one.name}.onnx"
        export(_as_trained(load.build(one.model, setting.contract).eval()), setting.contract, graph)
        found[one.name] = graph, graph.stat().st_size / 1000
    return found


def _as_trained(module: nn.Module) -> nn.Module:
    """The network with values that differ everywhere: equal ones, as biases and norms begin with, are stored once in a graph."""
    with torch.no_grad():
        for x in (*module.parameters(), *module.buffers()):
            if x.is_floating_point():
                x.add_(0.01 * torch.rand_like(x))
    return module


def _call(contract: Contract) -> dict[str, np.ndarray]:
    """One sample as a graph's inputs."""
    return {name: x.numpy() for name, x in generated(contract, 1).items()}


def _timed(
    graphs: dict[str, Path], own: dict[str, dict[str, np.ndarray]], setting: Setting, progress: Progress
) -> Latencies:
    """All graphs in one interleaved run; ``own``: {name: its inputs} of those that take others than a student."""
    threads = setting.measure.threads
    openers = {name: partial(opened, graph, setting.backend, threads=threads) for name, graph in graphs.items()}
    return time_sessions(openers, _call(setting.contract), setting.measure, progress, own)


def _models(model: Model, contract: Contract) -> Iterator[tuple[str, Model]]:
    """(name, section) of every kind and size, each kind from the smallest on; one kind where no modality has maps."""
    specs = contract.modalities
    maps = any(_has_maps(spec) for spec in specs.values())
    for kind in _KINDS if maps else _KINDS[:1]:
        for scale in _SCALES:
            encoders = {name: _encoder(spec, kind, scale) for name, spec in specs.items()}
            joint = _wide(_JOINT, scale)
            changes = {"encoders": encoders, "embedding": joint, "hidden": joint}
            yield f"{kind if maps else 'default'} x {scale:g}", model.model_copy(update=changes)


def _encoder(spec: ModalitySpec, kind: str, scale: float) -> Encoder:
    if _has_maps(spec):
        stages = min(len(_STAGES), max(2, round(math.log2(min(spec.shape[-2:]) / _LEFT))))
        return Encoder(kind=kind, widths=tuple(_wide(width, scale) for width in _STAGES[:stages]))
    base = _SEQUENCE if spec.kind == "text" else _ONE if spec.kind == "tabular" else _STAGES[:3]
    return Encoder(widths=tuple(_wide(width, scale) for width in base))


def _has_maps(spec: ModalitySpec) -> bool:
    return spec.kind in _MAPS and len(spec.shape) >= 3


def _wide(width: int, scale: float) -> int:
    """A width by a scale, a multiple of 8, as kernels like it."""
    return max(8, 8 * round(width * scale / 8))
