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


@dataclass(frozen=True)
class Candidate:
    """One network of the table. ``size_kb``, ``ms``: of its graph, where the budget needs them."""

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
        return all(limit is None or (figures[name] or 0) <= limit for name, limit in limits.items())

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


def measured(
    model: Model, budget: Budget, setting: Setting, progress: Progress
) -> tuple[list[Candidate], float | None]:
    """The table, and the teacher's median in milliseconds where the budget needs it."""
    with scratch() as folder:
        return _measured_in(folder, model, budget, setting, progress)


def _measured_in(
    folder: Path, model: Model, budget: Budget, setting: Setting, progress: Progress
) -> tuple[list[Candidate], float | None]:
    table: list[Candidate] = []
    graphs: dict[str, Path] = {}
    every = list(_models(model, setting.contract))
    for number, (name, section) in enumerate(every):
        torch.manual_seed(0)
        module = load.build(section, setting.contract).eval()
        count = params(module)
        progress.step("proposing a student", number + 1, len(every), name)
        if count > (budget.params or math.inf):
            continue
        one = Candidate(name, section, count, macs(module, setting.contract))
        if budget.timed or budget.size_kb is not None:
            graphs[name] = folder / f"{name}.onnx"
            export(module, setting.contract, graphs[name])
            one = replace(one, size_kb=graphs[name].stat().st_size / 1000)
        table.append(one)
    if not table:  # then the smallest is told
        name, section = every[0]
        module = load.build(section, setting.contract)
        return [Candidate(name, section, params(module), macs(module, setting.contract))], None
    if not budget.timed:
        return table, None
    call = {name: x.numpy() for name, x in generated(setting.contract, 1).items()}
    taken = _timed(graphs, call, setting, progress)
    teacher_ms = None
    if budget.ratio is not None:
        module, contract = setting.teacher()
        export(module.eval(), contract, folder / "teacher.onnx")
        call = {name: x.numpy() for name, x in generated(contract, 1).items()}
        teacher_ms = _timed({"teacher": folder / "teacher.onnx"}, call, setting, progress).timing("teacher").p50_ms
    return [replace(one, ms=taken.timing(one.name).p50_ms) for one in table], teacher_ms


def _timed(graphs: dict[str, Path], call: dict[str, np.ndarray], setting: Setting, progress: Progress) -> Latencies:
    threads = setting.measure.threads
    openers = {name: partial(opened, graph, setting.backend, threads=threads) for name, graph in graphs.items()}
    return time_sessions(openers, call, setting.measure, progress)


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
