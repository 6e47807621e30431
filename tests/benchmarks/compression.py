"""Pruning and quantization: mmedge against plain torch-pruning and plain ``nncf.quantize``, one model, one interleaved run.

``python -m tests.benchmarks.compression RUN [STAGE]`` takes a finished run's folder and the stage whose model is compressed
(distill; teacher where nothing was distilled). mmedge's pruned model is the run's own. Plain torch-pruning removes at least
as many multiply-accumulates, by one ratio for all layers, and recovers in the same loop with the same teacher. Plain NNCF
has its defaults. A way that misses the recipe's accuracy budget on validation is marked, since nobody would ship it. The
test split is read once, at the end. Prints a table for the README; nothing is asserted about time, since machines differ.
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ["NNCF_CI"] = "1"

import torch

from mmedge import artifact, recipe
from mmedge.artifact import Artifact
from mmedge.backends import onnxruntime_cpu
from mmedge.cli.common import progress
from mmedge.contract import Contract
from mmedge.data.store import samples
from mmedge.data.store.samples import Samples
from mmedge.graph.export import export
from mmedge.graph.trace import example
from mmedge.measure.budget import Budget, losses_of
from mmedge.measure.comparing import loss_of
from mmedge.measure.cost import macs
from mmedge.measure.latency import one_sample, ratios_to
from mmedge.measure.quality import graph_predictor, score, subset_scores
from mmedge.models.load import contract_of
from mmedge.pipeline.fold import make
from mmedge.progress import Progress
from mmedge.recipe import Prune, Quantize
from mmedge.stages.prune.work import work_on
from mmedge.stages.quantize import quantize
from mmedge.stages.quantize.calibration import calibration_inputs, calibration_rows
from mmedge.stages.quantize.evaluation import Scored, evaluator
from mmedge.training.context import Context

PARENT = "FP32, as it is (timed twice)"


@dataclass(frozen=True)
class Way:
    """A way to a smaller model; ``stages``: those it went through, each of which may lose its budget on validation."""

    name: str
    make: Callable[[], Path]
    stages: tuple[Prune | Quantize, ...]

    @property
    def budget(self) -> Budget:
        return Budget(
            max_drop=sum(stage.max_drop for stage in self.stages),
            max_subset_drop=sum(stage.max_subset_drop for stage in self.stages),
        )


def plain_nncf(graph: Path, train: Samples, target: Path) -> Path:
    """What NNCF's documentation shows: its defaults, 300 samples as they come, everything that it can quantize."""
    import nncf
    import onnx

    inputs = calibration_inputs(train, calibration_rows(train, 300, 0), 0)
    onnx.save(nncf.quantize(onnx.load(graph), nncf.Dataset(inputs)), target)
    return target


def plain_torch_pruning(parent: Artifact, config: Prune, most_macs: int, context: Context, target: Path) -> Path:
    """As torch-pruning's README has it: one ratio for all layers, L2 importance, nothing rounded; no more MACs than ours."""
    contract = contract_of(parent)
    module = context.rebuild(parent)
    work = work_on(parent, module, config, context)
    pruned = _uniform(module, contract, most_macs)
    work.recovered(pruned, config.train, "plain", "plain")
    export(pruned, contract, target)
    return target


def _uniform(module: torch.nn.Module, contract: Contract, most_macs: int) -> torch.nn.Module:
    import torch_pruning

    for step in range(1, 40):
        trial = copy.deepcopy(module).eval()
        torch_pruning.pruner.BasePruner(
            trial,
            example(contract),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.025 * step,
            ignored_layers=[trial.head],
            unwrapped_parameters=[(parameter, 0) for parameter in trial.absent.values()],
            forward_fn=lambda model, inputs: model(**inputs),
            output_transform=lambda result: list(result.values()),
        ).step()
        if macs(trial, contract) <= most_macs:
            return trial
    raise RuntimeError("torch-pruning cannot remove as much")


def compared(run: Path, stage: str, folder: Path, shown: Progress) -> None:
    """Make every way's graph from ``run``'s ``stage``, time them together, and print the table."""
    parent, pruned = artifact.read(run / stage), artifact.read(run / "prune")
    values, code = recipe.recall(parent.meta["recipe"], run / ".work")
    resolved = recipe.parse(values, where=run / "report.json")
    if (run / "data").is_dir():
        shutil.copytree(run / "data", folder / "data")
    dataset = samples.prepare(resolved, folder, code=code, progress=shown)
    contract = contract_of(parent)
    modalities = tuple(contract.modalities)
    train, validation, test = (split.only(modalities) for split in (dataset.train, dataset.validation, dataset.test))
    config, quantization = resolved.prune or Prune(), resolved.quantize or Quantize()

    def context(name: str) -> Context:
        teacher = artifact.read(run / "teacher") if (run / "teacher").is_dir() else None
        return Context(resolved, dataset, folder, code, shown, teacher, name)

    def quantized(of: Artifact, name: str) -> Path:
        return make(quantize, of, quantization, replace(context(name), key="benchmark")).file("model.onnx")

    graph = parent.file("model.onnx")
    ways = [Way(PARENT, lambda: graph, (quantization,))]
    ways.append(Way("plain `nncf.quantize`", lambda: plain_nncf(graph, train, folder / "nncf.onnx"), (quantization,)))
    ways.append(Way("**mmedge quantize**", lambda: quantized(parent, "ours"), (quantization,)))
    if pruned.meta["macs"] < parent.meta["macs"]:
        narrow, both = folder / "pruned.onnx", folder / "pruned-nncf.onnx"
        most, work = pruned.meta["macs"], context("plain")
        ways += [
            Way("plain torch-pruning", lambda: plain_torch_pruning(parent, config, most, work, narrow), (config,)),
            Way("plain torch-pruning, then NNCF", lambda: plain_nncf(narrow, train, both), (config, quantization)),
            Way("**mmedge prune**", lambda: pruned.file("model.onnx"), (config,)),
            Way("**mmedge prune, then quantize**", lambda: quantized(pruned, "both"), (config, quantization)),
        ]
    graphs = {way.name: way.make() for way in ways}
    ratios = ratios_to(graph, graphs, one_sample(test, resolved.measure.batch), resolved.measure, shown)
    judge = evaluator(contract, validation)
    parents, lost = judge(graph), losses_of(contract, validation)

    def within(budget: Budget, made: Scored) -> bool:
        return budget.over(lost(parents.outputs, made.outputs, 1 - budget.confidence)) <= 0

    _head(f"{resolved.name}, {stage}", parent, pruned, int(test.labelled.sum()))
    for way in ways:
        made, ratio = graphs[way.name], ratios[way.name]
        inside = "yes" if within(way.budget, judge(made)) else "**no**"
        print(f"| {way.name} | {_test(made, graph, contract, test)} | {inside} | {ratio.value:.3f} [{ratio.low:.3f}, "
              f"{ratio.high:.3f}] | {made.stat().st_size / 1000:.0f} kB |")  # fmt: skip


def _head(name: str, parent: Artifact, pruned: Artifact, count: int) -> None:
    left = pruned.meta["macs"] / parent.meta["macs"]
    print(
        f"\n{name}: {parent.meta['params'] / 1e6:.3f} M parameters, "
        f"{parent.meta['macs'] / 1e6:.1f} M MACs; mmedge's pruned model has {left:.0%} of them; {count} test samples\n"
    )
    print("| way | test | loss to FP32 [95 %] | subsets' losses | inside budget on validation | latency, of FP32's [95 %] | size |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- |")


def _test(graph: Path, reference: Path, contract: Contract, test: Samples) -> str:
    """Quality on the test split, the paired loss against the reference, and what each subset of modalities loses."""
    predictors = [graph_predictor(onnxruntime_cpu.session(each), contract, test) for each in (graph, reference)]
    ours, theirs = (predict(test.present) for predict in predictors)

    lost = loss_of(contract, test, tail=0.025)(theirs, ours)
    low, high = lost.low, lost.high
    scores, before = (subset_scores(contract, test, predict) for predict in predictors)
    losses = ", ".join(f"{name} {before[name] - value:+.3f}" for name, value in scores.items() if "+" not in name)
    value, reference = (score(contract, output, test.targets) for output in (ours, theirs))
    return f"{value:.3f} | {reference - value:+.3f} [{low:+.3f}, {high:+.3f}] | {losses}"


def main() -> None:
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "prune").is_dir():
        print("skipped: it needs the folder of a finished run: python -m tests.benchmarks.compression runs/demo")
        return
    with progress() as shown, tempfile.TemporaryDirectory() as name:
        compared(Path(sys.argv[1]), (sys.argv[2:] or ["distill"])[0], Path(name), shown)


if __name__ == "__main__":
    main()
