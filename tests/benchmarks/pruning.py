"""Pruning for measured latency: ``python -m tests.benchmarks pruning`` (or ``make bench-prune``), some minutes.

1. The demo's student (``MMEDGE_DEMO``, default runs/demo): mmedge by branches against plain uniform torch-pruning with
   equal recovery, all latencies in one interleaved run.
2. A convolutional fusion network of more than 5 M parameters, trained here on the demo's data: half of its MACs removed.
   ``MMEDGE_BENCH_EPOCHS`` (default 6) epochs of training, half as many of recovery.
"""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path

import torch

from mmedge import artifact, pipeline, recipe
from mmedge.data import samples
from mmedge.graph.export import export
from mmedge.graph.trace import example
from mmedge.measure.latency import one_sample, ratios_to
from mmedge.models.load import contract_of
from mmedge.progress import Silent
from mmedge.recipe import Prune
from mmedge.stages import prune
from mmedge.stages.prune.work import work_on
from mmedge.training.context import Context

RECIPE = Path(__file__).parent.parent.parent / "recipes" / "avdigits.yaml"


def main() -> None:
    demo = Path(os.environ.get("MMEDGE_DEMO", "runs/demo"))
    with tempfile.TemporaryDirectory() as folder:
        if (demo / "distill").is_dir():
            _student(demo, Path(folder) / "student")
        else:
            print(
                f"no finished demo in {demo}: its student is left out (mmedge run recipes/avdigits.yaml --out {demo})"
            )
        _large(Path(folder) / "large")


def _student(demo: Path, out: Path) -> None:
    whole = recipe.load(RECIPE)
    dataset = samples.prepare(whole, out, code=RECIPE.parent, progress=Silent())
    parent, teacher = artifact.read(demo / "distill"), artifact.read(demo / "teacher")
    context = Context(whole, dataset, out / ".work" / "bench", RECIPE.parent, Silent(), teacher)
    assert whole.prune is not None
    ours = prune.prune(parent, whole.prune, context, out / "ours", "k")
    contract, module = contract_of(parent), context.rebuild(parent)
    work = work_on(parent, module, whole.prune, context)
    plain = _plain_uniform(module, contract, ours.meta["macs"])
    work.recovered(plain, whole.prune.train, "plain", "plain")
    export(plain, contract, out / "plain.onnx")
    graphs = {"mmedge, by branch": ours.file("model.onnx"), "torch-pruning, uniform": out / "plain.onnx"}
    inputs = one_sample(dataset.validation, 1)
    ratios = ratios_to(parent.file("model.onnx"), graphs, inputs, whole.measure, Silent())
    before, models = work.judged(module), {"mmedge, by branch": context.rebuild(ours), "torch-pruning, uniform": plain}
    print(f"student: {before.quality:.3f} on validation, {_rounded(before.subsets)}")
    for name, ratio in ratios.items():
        judged, left = work.judged(models[name]), work.shares(models[name])
        print(
            f"{name}: {left['macs']:.2f} of the MACs, latency {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], "
            f"validation {judged.quality:.3f}, {_rounded(judged.subsets)}"
        )


def _plain_uniform(module: torch.nn.Module, contract, most_macs: int) -> torch.nn.Module:
    """torch-pruning as its README has it: one ratio for all layers, L2 importance, nothing rounded; no more MACs than ours."""
    import torch_pruning

    from mmedge.measure.cost import macs

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


def _large(out: Path) -> None:
    epochs = int(os.environ.get("MMEDGE_BENCH_EPOCHS", "6"))
    whole = recipe.load(RECIPE)
    encoder = recipe.Encoder(widths=(48, 96, 192, 512), depth=2)
    model = whole.teacher.model.model_copy(update={"encoders": {"image": encoder, "audio": encoder}})
    train = whole.teacher.train.model_copy(update={"epochs": epochs, "views": 2})
    recovery = train.model_copy(update={"epochs": max(2, epochs // 2), "learning_rate": 1e-3})
    config = Prune(macs=0.5, probe_steps=10, ratios=(0.3, 0.5, 0.7), train=recovery)
    teacher = whole.teacher.model_copy(update={"model": model, "train": train})
    small = {"teacher": teacher, "distill": None, "prune": config, "quantize": None, "gates": {}}
    outcome = pipeline.run(whole.model_copy(update=small), out, code=RECIPE.parent, progress=Silent(), only=None)
    before, after = (next(s for s in outcome.report["stages"] if s["stage"] == name) for name in ("teacher", "prune"))
    print(f"large network: {before['params'] / 1e6:.1f} M parameters, {before['macs'] / 1e6:.0f} M MACs")
    print(
        f"pruned: {after['macs'] / before['macs']:.2f} of the MACs, latency {before['latency']['p50_ms']:.2f} -> "
        f"{after['latency']['p50_ms']:.2f} ms ({1 / after['latency']['ratio_to_parent']:.2f} x lower), test "
        f"{before['quality']['value']:.3f} -> {after['quality']['value']:.3f}, {_rounded(before['subsets'])} -> {_rounded(after['subsets'])}"
    )
    for note in after["notes"]:
        print(f"  {note}")


def _rounded(subsets: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in subsets.items())
