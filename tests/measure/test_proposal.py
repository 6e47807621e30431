"""A student for a budget: the network that computes most inside it, and why."""

import re

import pytest
import torch

from mmedge.backends import GRAPH_BACKEND
from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.graph.export import export
from mmedge.measure import proposal
from mmedge.measure.cost import macs, params
from mmedge.measure.proposal import Setting, proposed
from mmedge.models import load
from mmedge.progress import Silent
from mmedge.recipe import Budget, Distill, Measure, Model

MODALITIES = {
    "picture": {"kind": "image", "height": 16, "width": 16},
    "name": {"kind": "text", "length": 6, "tokens": 50},
}
CONTRACT = Contract.model_validate({"task": "classification", "labels": ["a", "b", "c"], "modalities": MODALITIES})


def setting():
    teacher = Model(hidden=256, embedding=256)
    return Setting(CONTRACT, GRAPH_BACKEND, Measure(runs=20, warmup=1), lambda: (load.build(teacher, CONTRACT), CONTRACT))  # fmt: skip


def test_the_network_that_computes_most_with_so_many_parameters_is_proposed():
    chosen = proposed(Model(dropout=0.2), Budget(params=20_000), setting(), Silent())
    module = load.build(chosen, CONTRACT)
    assert params(module) <= 20_000 and chosen.dropout == 0.2
    others = [load.build(section, CONTRACT) for _, section in proposal._models(Model(), CONTRACT)]
    assert macs(module, CONTRACT) == max(macs(other, CONTRACT) for other in others if params(other) <= 20_000)
    assert (
        f"{params(module):,} parameters" in chosen.proposed and "student proposed for params 20000" in chosen.proposed
    )


def test_a_budget_of_size_and_latency_is_kept_by_what_is_measured(monkeypatch):
    monkeypatch.setattr(proposal, "_KINDS", ("conv",))
    monkeypatch.setattr(proposal, "_SCALES", (0.25, 1.0, 4.0))
    taken = {"conv x 0.25": 1.0, "conv x 1": 2.0, "conv x 4": 9.0, "teacher": 20.0}

    class Told:
        def timing(self, name):
            return type("Timing", (), {"p50_ms": taken[name]})

    exported, timed, runs = [], [], []

    def graph(module, contract, file):
        """Of four bytes a parameter: what is exported is looked at elsewhere."""
        exported.append(file.stem)
        file.write_bytes(bytes(4 * params(module)))

    def told(graphs, own, setting, progress):
        timed.extend(graphs)
        runs.append(sorted(own))
        return Told()

    monkeypatch.setattr(proposal, "export", graph)
    monkeypatch.setattr(proposal, "_timed", told)
    torch.manual_seed(0)
    for budget, wanted in (
        ({"latency_ms": 3.0}, "conv x 1"),
        ({"ratio": 0.06}, "conv x 0.25"),
        ({"ratio": 1.0}, "conv x 4"),
    ):
        assert f": {wanted}:" in proposed(Model(), Budget(**budget), setting(), Silent()).proposed
    assert runs == [[], ["teacher"], ["teacher"]], "a ratio is of one interleaved run"
    for limits in ({"size_kb": 36}, {"params": 9000}, {"size_kb": 36, "params": 10**6}):
        exported.clear(), timed.clear()
        chosen = proposed(Model(), Budget(ratio=1.0, **limits), setting(), Silent()).proposed
        assert ": conv x 0.25:" in chosen and "of 1 networks of 3 inside the budget" in chosen
        assert exported == timed == ["conv x 0.25", "teacher"], "what cannot be chosen costs seconds each"
    exported.clear(), timed.clear()
    with pytest.raises(
        UsageError, match=r"the smallest is conv x 0.25: [\d,]+ parameters, .* multiply-accumulates, \d+ KB"
    ):
        proposed(Model(), Budget(ratio=1.0, size_kb=1), setting(), Silent())
    assert exported == ["conv x 0.25"] and not timed


def test_a_budget_that_nothing_keeps_is_told_with_the_smallest():
    with pytest.raises(
        UsageError, match=r"no built-in network keeps the budget \(params 10\); the smallest is conv x 0.25"
    ):
        proposed(Model(), Budget(params=10), setting(), Silent())


def test_a_budget_and_encoders_exclude_each_other():
    with pytest.raises(ValueError, match="leave out model.hidden"):
        Distill(budget={"params": 9}, model={"hidden": 8})
    with pytest.raises(ValueError, match="name one of"):
        Budget()


@pytest.mark.long
def test_the_size_of_a_proposal_is_that_of_the_network_when_it_is_trained(monkeypatch, tmp_path):
    monkeypatch.setattr(proposal, "_KINDS", ("mobilenet",))
    monkeypatch.setattr(proposal, "_SCALES", (0.25,))
    chosen = proposed(Model(), Budget(size_kb=100), setting(), Silent())
    module = load.build(chosen, CONTRACT).train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    for seed in range(3):
        torch.manual_seed(seed)
        inputs = {"picture": torch.randn(8, 3, 16, 16), "name": torch.randint(1, 50, (8, 6))}
        present = torch.ones(8, 2, dtype=torch.bool)
        torch.nn.functional.cross_entropy(module(present=present, **inputs)["logits"], torch.arange(8) % 3).backward()
        optimizer.step()
    export(module.eval(), CONTRACT, tmp_path / "trained.onnx")
    told = float(re.search(r"([\d.]+) KB", chosen.proposed)[1])
    assert told == pytest.approx((tmp_path / "trained.onnx").stat().st_size / 1000, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["latency_ms", "ratio"])
def test_a_budget_of_time_is_kept_on_the_real_backend(asked, monkeypatch):
    """Limits between what the smallest and the largest network take here, so that they tell something on any machine."""
    monkeypatch.setattr(proposal, "_KINDS", ("conv",))
    monkeypatch.setattr(proposal, "_SCALES", (0.25, 1.0, 4.0))
    table, teacher_ms = proposal.measured(Model(), Budget(ratio=1.0), setting(), Silent())
    times = sorted(one.ms for one in table)
    assert times[0] > 0 and times[-1] > 1.3 * times[0]
    limit = (times[0] * times[-1]) ** 0.5
    chosen = proposed(Model(), Budget(**{asked: limit / (teacher_ms if asked == "ratio" else 1)}), setting(), Silent())
    again = load.build(chosen, CONTRACT)
    took = next(one.ms for one in table if (one.params, one.macs) == (params(again), macs(again, CONTRACT)))
    assert took < 1.5 * limit, "what was chosen takes far more in another run"
    assert macs(again, CONTRACT) > min(one.macs for one in table), "and yet it is not the smallest"
    assert f"timed on {GRAPH_BACKEND}" in chosen.proposed and " ms" in chosen.proposed
