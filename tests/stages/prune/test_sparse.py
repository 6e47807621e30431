"""2:4 sparsity: which weights go, that recovery and 8 bits keep the zeros, and that nobody is told that a CPU gains by it."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mmedge import recipe
from mmedge.errors import UsageError
from mmedge.graph.sparsity import has_pattern
from mmedge.progress import Silent
from mmedge.recipe import Prune
from mmedge.stages import prune
from mmedge.stages.prune import sparse, work
from tests.conftest import staged
from tests.stages.prune.test_prune import ANY_LOSS, SHORT

VALUES = {
    "schema": 1,
    "name": "sparse",
    "data": {"manifest": "m.csv", "target": "y", "modalities": {"x": {"kind": "tabular", "columns": ["a", "b"]}}},
}


def net():
    torch.manual_seed(0)
    layers = {
        "conv": nn.Conv2d(16, 32, 3, padding=1),
        "grouped": nn.Conv2d(32, 32, 3, groups=2),
        "few": nn.Conv2d(3, 64, 3),
        "linear": nn.Linear(64, 32),
        "tiny": nn.Linear(16, 8),
    }
    return nn.ModuleDict(layers)


def test_of_each_four_weights_along_the_inputs_the_two_largest_stay():
    module = net()
    found = sparse.masks(module, ())
    assert set(found) == {"conv.weight", "linear.weight"}
    assert set(sparse.masks(module, ("conv",))) == {"linear.weight"}
    for name, mask in found.items():
        weight = module.get_parameter(name).detach()
        fours, kept = (x.movedim(1, -1).reshape(-1, 4) for x in (weight.abs(), mask))
        assert (kept.sum(1) == 2).all()
        assert (fours.where(kept, torch.inf).min(1).values >= fours.where(~kept, 0).max(1).values).all()
        assert has_pattern((weight * mask).numpy(), 1) and not has_pattern(weight.numpy(), 1)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weights_that_are_made_of_other_parameters_hold_no_zeros(norm):
    """The whole cut was thrown away: "has no attribute `weight`"."""
    module = net()
    norm(module["linear"])
    assert set(sparse.masks(module, ())) == {"conv.weight"}


def test_recovery_changes_what_is_left_and_no_zero(monkeypatch, tmp_path):
    module = net()
    found = sparse.masks(module, ())
    x = torch.randn(4, 64)

    def fit(student, *_, **__):
        optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            student["linear"](x).square().sum().backward()
            optimizer.step()

    monkeypatch.setattr(work, "fit", fit)
    context = SimpleNamespace(recipe=SimpleNamespace(seed=0), work=tmp_path, progress=Silent(), log=logging.getLogger)
    mine = SimpleNamespace(context=context, beginning="", objective=lambda *_: None, training=lambda _: None)
    before = module["linear"].weight.detach().clone()
    work.PruneWork.recovered(mine, module, SHORT, "r", "t", held=found)
    after, mask = module["linear"].weight.detach(), found["linear.weight"]
    assert not after[~mask].any() and (after[mask] != before[mask]).all()


def values(**section):
    return {**VALUES, "prune": {"sparsity": "2:4", **section}}


def test_a_recipe_whose_targets_gain_nothing_by_zeros_is_told_so():
    where = Path("test.yaml")
    with pytest.raises(UsageError, match=r"prune\.sparsity: zeros make nothing faster on onnxruntime-cpu"):
        recipe.parse(values(), where=where)
    with pytest.raises(UsageError, match=r"prune\.sparsity: .*'2:4'"):
        recipe.parse(values(sparsity="1:4"), where=where)
    assert recipe.parse(values(faster=False), where=where).prune.sparsity == "2:4"
    on_gpu = {**values(), "export": {"targets": {"onnxruntime-cpu": {}, "tensorrt-rtx": {"precision": "int8"}}}}
    assert recipe.parse(on_gpu, where=where).export.skips_zeros


@pytest.mark.long
def test_a_network_of_which_half_is_zero_is_recovered_kept_and_quantized_with_its_zeros(
    finished,
    context,
    untimed,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(sparse, "WORTH", 64)
    config = Prune(macs=0.8, sparsity="2:4", allocation="uniform", train=SHORT, **ANY_LOSS)
    made = staged(prune.prune, finished.artifact("distill"), config, context, tmp_path / "p")
    rows = made.meta["pruning"]["attempts"]
    assert made.meta["pruning"]["kept"] == len(rows) - 1 and 0.2 < rows[-1]["zeros"] <= 0.5
    assert any("no backend on this machine computes it faster for that" in note for note in made.meta["notes"])
    stored = [numpy_helper.to_array(each) for each in onnx.load(made.file("model.onnx")).graph.initializer]
    assert sum(has_pattern(value, 1) for value in stored if value.ndim == 4 and np.any(value)) >= 1
    strict = config.model_copy(update={"max_drop": -1.0})
    kept = staged(prune.prune, finished.artifact("distill"), strict, replace(context, key="w"), tmp_path / "q")
    assert kept.meta["pruning"]["kept"] is None and kept.meta["pruning"]["attempts"][-1]["zeros"] is not None
    monkeypatch.setattr(sparse, "WORTH", 10**6)
    large = staged(prune.prune, finished.artifact("distill"), config, replace(context, key="l"), tmp_path / "r")
    assert any(note.startswith("no weights are zero: no layer of") for note in large.meta["notes"])
