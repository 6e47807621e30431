"""Pruning: inside its budget and as accurate, or the parent; whatever it returns is rebuilt bit for bit."""

import json
from dataclasses import replace

import pytest
import torch

from mmedge.errors import AccuracyGateFailed, UsageError
from mmedge.measure.cost import macs
from mmedge.measure.latency import Ratio
from mmedge.models import load
from mmedge.models.attention import SplitAttention
from mmedge.models.load import contract_of
from mmedge.models.skipped import Skipped
from mmedge.progress import Silent
from mmedge.recipe import Controls, Distill, Encoder, Model, Prune, Train
from mmedge.stages import distill, prune
from mmedge.stages.prune import attempts, groups, outcome
from mmedge.stages.prune.branches import branches_of
from mmedge.stages.prune.groups import groups_of
from mmedge.stages.prune.work import PruneWork, work_on
from tests.conftest import narrowed, staged
from tests.stages.prune.conftest import outputs

SHORT = Train(epochs=1, max_steps=2, batch_size=32)
ANY_LOSS = {"max_drop": 1.0, "max_subset_drop": 1.0, "faster": False, "round_to": 2}


def test_pruning_reaches_the_share_of_macs_that_was_asked_for(finished):
    assert finished.stage("prune")["macs"] <= 0.7 * finished.stage("distill")["macs"]
    assert finished.stage("prune")["params"] < finished.stage("distill")["params"]
    taught = finished.stage("distill")["decision"]["kept"] == "distilled"
    end = "recovered with the teacher" if taught else "recovered without a teacher"
    assert finished.stage("prune")["notes"][0].endswith(end)


def test_pruning_keeps_widths_to_the_multiple_that_was_asked_for(finished, context):
    module = context.rebuild(finished.artifact("teacher"))
    contract = contract_of(finished.artifact("teacher"))
    narrowed(module, contract, Prune(round_to=4), 0.3)
    widths = [layer.out_channels for layer in module.modules() if hasattr(layer, "out_channels")]
    assert widths and all(width % 4 == 0 for width in widths)


def test_an_ignored_layer_stays_as_it_is_and_an_unknown_one_is_told(finished, context):
    made = finished.artifact("teacher")
    module, contract = context.rebuild(made), contract_of(made)
    narrowed(module, contract, Prune(round_to=2, ignore=("encoders.audio.features.0",)), 0.5)
    assert module.encoders["image"].features[0].out_channels == 4
    assert module.encoders["audio"].features[0].out_channels == 8
    with pytest.raises(UsageError, match=r"did you mean 'fusion\.0'"):
        groups_of(module, contract, Prune(ignore=("fusoin.0",)))


def test_each_branch_is_measured_and_the_choice_stands_in_the_report(finished):
    pruning = finished.stage("prune")["pruning"]
    table = {row["branch"]: row for row in pruning["branches"]}
    assert list(table) == ["image", "audio", "fusion"]
    assert table["image"]["layers"] and all(name.startswith("encoders.image") for name in table["image"]["layers"])
    for row in table.values():
        for option in row["options"]:
            assert (
                0 < option["left"]["params"] < 1 and 0 < option["left"]["macs"] <= 1 and option["left"]["latency"] > 0
            )
            assert set(option["subsets"]) == {"image", "audio", "image+audio"}
    kept = pruning["attempts"][pruning["kept"]]
    assert kept["left"]["macs"] == finished.stage("prune")["macs"] / finished.stage("distill")["macs"] <= 0.7
    assert {name: table[name]["ratio"] for name in kept["ratios"]} == kept["ratios"]


def test_a_branch_that_is_not_there_is_told_with_those_that_are(finished, context, tmp_path):
    config = Prune(branches={"imag": 0.1}, **ANY_LOSS)
    with pytest.raises(
        UsageError, match=r"no branch 'imag' \(did you mean 'image'\?\); there are image, audio, fusion"
    ):
        staged(prune.prune, finished.artifact("distill"), config, context, tmp_path / "p")


@pytest.mark.long
def test_a_branch_at_0_is_left_alone_and_the_others_pay(finished, context, untimed, tmp_path):
    config = Prune(macs=0.8, branches={"audio": 0.0}, allocation="uniform", train=SHORT, **ANY_LOSS)
    made = staged(prune.prune, finished.artifact("distill"), config, context, tmp_path / "p")
    before, after = context.rebuild(finished.artifact("distill")), context.rebuild(made)
    assert made.meta["pruning"]["branches"][1]["ratio"] == 0
    shapes = [{name: w.shape for name, w in m.encoders["audio"].named_parameters()} for m in (before, after)]
    assert shapes[0] == shapes[1]


def losing(monkeypatch, *drops):
    """What each attempt loses is said here: what a hardly trained student loses is chance."""
    real, said = outcome.losses, iter(drops)

    def losses(budget, lost):
        drop = next(said)
        return replace(real(budget, lost), drop=drop, passed=drop <= budget.max_drop, unproven=None)

    monkeypatch.setattr(outcome, "losses", losses)


def test_a_budget_that_accuracy_forbids_returns_the_parent_itself_with_exit_code_3(
    finished, context, untimed, tmp_path, monkeypatch
):
    losing(monkeypatch, 0.5, 0.3, 0.1)
    ranked, real = [], attempts.ranked
    monkeypatch.setattr(attempts, "ranked", lambda work, module: ranked.append(module) or real(work, module))
    parent = finished.artifact("distill")
    config = Prune(macs=0.4, allocation="uniform", round_to=2, train=SHORT, faster=False)
    made = staged(prune.prune, parent, config, context, tmp_path / "p")
    for name in ("weights.safetensors", "model.onnx"):
        assert made.file(name).read_bytes() == parent.file(name).read_bytes()
    assert torch.equal(*(outputs(context.rebuild(x), context.dataset.test) for x in (made, parent)))
    assert made.meta["macs"] == parent.meta["macs"] and made.parent == parent.sha256
    first, second, third, *_ = made.meta["notes"]
    assert first.startswith("the parent is returned") and "the best that was tried" in second
    assert "a smaller prune.round_to allows finer ones" in third
    assert made.meta["misses"] == [{"name": "prune.budget.macs", "limit": 0.4, "value": 1.0, "exit": 3}]
    left = [row["left"]["macs"] for row in made.meta["pruning"]["attempts"]]
    assert len(left) > 1 and left == sorted(set(left))  # smaller cuts were tried, too, each once
    assert len(ranked) == 1  # all of the same parent


@pytest.mark.parametrize("policy", ["keep-parent", "stop"])
def test_on_a_miss_no_other_cut_is_tried_or_the_run_ends(finished, context, untimed, tmp_path, monkeypatch, policy):
    losing(monkeypatch, 0.5)
    how = {"allocation": "uniform", "round_to": 2, "train": SHORT, "faster": False, "on_miss": policy}
    config = Prune(macs=0.4, **how)
    if policy == "stop":
        with pytest.raises(AccuracyGateFailed, match="no cut is inside the budget of accuracy") as raised:
            staged(prune.prune, finished.artifact("distill"), config, context, tmp_path / "p")
        assert raised.value.exit_code == 3 and raised.value.where == "prune.on_miss: stop"
        return
    made = staged(prune.prune, finished.artifact("distill"), config, context, tmp_path / "p")
    assert len(made.meta["pruning"]["attempts"]) == 1 and made.meta["pruning"]["kept"] is None


@pytest.mark.long
def test_a_budget_out_of_reach_keeps_the_smallest_model_with_exit_code_4(finished, context, untimed, tmp_path):
    config = Prune(macs=0.02, allocation="uniform", train=SHORT, **ANY_LOSS)
    made = staged(prune.prune, finished.artifact("distill"), config, context, tmp_path / "p")
    (miss,) = made.meta["misses"]
    assert miss["exit"] == 4 and miss["limit"] == 0.02 < miss["value"] < 0.6
    assert made.meta["macs"] < finished.artifact("distill").meta["macs"]
    assert any("no cut by whole blocks of 2 channels is inside the budget" in note for note in made.meta["notes"])


@pytest.mark.long
def test_where_a_budget_out_of_reach_loses_too_much_smaller_cuts_are_tried_and_not_the_same_again(
    finished, context, untimed, tmp_path, monkeypatch
):
    losing(monkeypatch, 0.5, 0.0, 0.0)
    config = Prune(macs=0.001, allocation="uniform", round_to=2, train=SHORT, faster=False)
    made = staged(prune.prune, finished.artifact("distill"), config, context, tmp_path / "p")
    left = [row["left"]["macs"] for row in made.meta["pruning"]["attempts"]]
    assert len(left) == 2 and left[0] < 0.9 * left[1]
    assert made.meta["pruning"]["kept"] == 1 and made.meta["misses"][0]["value"] == left[1]


def test_what_is_no_faster_is_not_taken_and_not_even_recovered(finished, context, tmp_path, monkeypatch):
    """Whether a tiny cut is faster is up to the machine, so that the timing is said here and not taken."""
    same = lambda work, modules: {name: Ratio(0.99, 0.97, 1.01, 0.099, 0.1) for name in modules}  # noqa: E731
    monkeypatch.setattr(PruneWork, "latencies", same)
    config = Prune(macs=0.6, allocation="uniform", round_to=2, train=SHORT, max_drop=1, max_subset_drop=1)
    made = staged(prune.prune, finished.artifact("distill"), config, context, tmp_path / "p")
    assert made.file("model.onnx").read_bytes() == finished.artifact("distill").file("model.onnx").read_bytes()
    assert "no faster than the parent" in made.meta["notes"][1]
    assert not made.meta["misses"]  # a smaller model is not what was missed
    missed = Prune(budget={"latency": 0.6}, allocation="uniform", round_to=2, train=SHORT)
    made = staged(prune.prune, finished.artifact("distill"), missed, replace(context, key="w"), tmp_path / "q")
    assert [miss["exit"] for miss in made.meta["misses"]] == [4]


@pytest.mark.long
def test_steps_go_on_from_each_other_and_an_interrupted_stage_ends_the_same(
    finished, context, untimed, tmp_path, saved
):
    parent = finished.artifact("distill")
    config = Prune(
        macs=0.36, steps=2, allocation="uniform", importance="taylor", train=SHORT, **ANY_LOSS | {"round_to": 1}
    )
    whole = staged(prune.prune, parent, config, context, tmp_path / "a")
    rows = whole.meta["pruning"]["attempts"]
    assert [row["step"] for row in rows] == [1, 2] and whole.meta["pruning"]["kept"] == 1
    assert rows[1]["left"]["macs"] <= 0.36 < rows[0]["left"]["macs"] <= 0.6
    assert torch.equal(saved[-1], outputs(context.rebuild(whole), context.dataset.test))

    class Killed(Silent):
        def step(self, task, done, total, text=""):
            if task.endswith("step 2/2"):
                raise KeyboardInterrupt

    again = replace(context, key="interrupted", progress=Killed())
    with pytest.raises(KeyboardInterrupt):
        staged(prune.prune, parent, config, again, tmp_path / "b")
    assert not (tmp_path / "b").exists() and (tmp_path / ".work" / "b-interrupted" / "recovery-0.safetensors").is_file()
    resumed = staged(prune.prune, parent, config, replace(again, progress=Silent()), tmp_path / "b")
    for name in ("weights.safetensors", "pruning.json"):
        assert resumed.file(name).read_bytes() == whole.file(name).read_bytes()


@pytest.mark.long
def test_steps_stop_at_the_last_that_lost_no_more_than_allowed(finished, context, untimed, tmp_path, monkeypatch):
    losing(monkeypatch, 0.0, 0.5)
    config = Prune(macs=0.4, steps=3, allocation="uniform", train=SHORT, round_to=2, max_drop=0.01, faster=False)
    made = staged(prune.prune, finished.artifact("distill"), config, context, tmp_path / "p")
    pruning = made.meta["pruning"]
    assert pruning["kept"] == 0 and [row["passed"] for row in pruning["attempts"]] == [True, False]
    assert made.meta["macs"] == round(
        pruning["attempts"][0]["left"]["macs"] * finished.artifact("distill").meta["macs"]
    )
    assert [miss["exit"] for miss in made.meta["misses"]] == [3]  # it was accuracy that stopped short of the budget


def ranked(finished, context, importance, **more):
    made = finished.artifact("teacher")
    module, contract = context.rebuild(made), contract_of(made)
    config = Prune(importance=importance, round_to=2, **more)
    torch.manual_seed(0)
    if importance == "taylor":
        work_on(finished.artifact("distill"), module, config, context).fill_gradients(module)
    return module, groups_of(module, contract, config)


def test_every_importance_ranks_the_same_groups_in_an_order_of_its_own(finished, context):
    orders = {}
    for importance in ("l1", "l2", "taylor", "random"):
        _, (groups, left) = ranked(finished, context, importance)
        assert not left
        for group in groups:
            assert sorted(channel for unit in group.units for channel in unit) == list(range(len(group.units)))
        orders[importance] = [group.units for group in groups]
    assert len({json.dumps(order) for order in orders.values()}) == 4


def test_the_scale_of_batch_norms_ranks_where_there_are_some_and_is_an_error_where_there_are_none(finished, context):
    module, (groups, left) = ranked(finished, context, "bn")
    first = next(group for group in groups if group.root == "encoders.image.features.0")
    scales = module.encoders["image"].features[1].weight.abs()
    assert [unit[0] for unit in first.units] == torch.argsort(scales, stable=True).tolist()
    assert left["fusion.0"] == "has no batch norm"
    contract = contract_of(finished.artifact("teacher"))
    bare = Model(encoders={"image": Encoder(widths=(8,)), "audio": Encoder(widths=(8,))})
    module = load.build(bare, contract)
    for encoder in module.encoders.values():
        encoder.features[1] = torch.nn.Identity()
    with pytest.raises(UsageError, match="the model has none"):
        groups_of(module, contract, Prune(importance="bn"))


THEIR_TRANSFORMER = """
import torch
from torch import nn

class Fusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.see, self.hear = nn.Linear(28, 32), nn.Linear(16, 32)
        self.place = nn.Parameter(torch.randn(1, 52, 32) * 0.1)
        self.trunk = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 1)
        self.out = nn.Linear(32, 10)

    def forward(self, image, audio):
        tokens = torch.cat([self.see(image[:, 0]), self.hear(audio[:, 0].transpose(1, 2))], dim=1)
        return self.out(self.trunk(tokens + self.place).mean(dim=1))
"""


@pytest.mark.long
def test_a_users_transformer_loses_heads_and_widths_exports_and_is_rebuilt_bit_for_bit(
    finished, context, untimed, tmp_path, saved
):
    (tmp_path / "their_fusion.py").write_text(THEIR_TRANSFORMER)
    section = Distill(
        model=Model(factory="their_fusion:Fusion"), train=SHORT, controls=Controls(no_distillation=False, seeds=1)
    )
    context = replace(context, recipe=context.recipe.model_copy(update={"distill": section}))
    parent = staged(distill.distill, finished.artifact("teacher"), section, context, tmp_path / "d")
    config = Prune(macs=0.4, allocation="uniform", train=SHORT, max_drop=1, max_subset_drop=1, faster=False, round_to=8)
    made = staged(prune.prune, parent, config, context, tmp_path / "p")
    again = context.rebuild(made)
    attention = again.inner.trunk.layers[0].self_attn
    assert isinstance(attention, SplitAttention) and attention.q_proj.out_features % attention.head_dim == 0
    assert attention.q_proj.out_features < 32 and again.inner.trunk.layers[0].linear1.out_features < 64
    assert macs(again, contract_of(made)) == made.meta["macs"] <= 0.4 * parent.meta["macs"]
    assert {row["branch"] for row in made.meta["pruning"]["branches"]} == {"trunk"}
    assert all(row["top1"] == 1 for row in made.meta["verification"])  # the graph against the module that was saved
    twice = staged(prune.prune, made, config, replace(context, key="w2"), tmp_path / "pp")
    assert twice.meta["macs"] < made.meta["macs"]
    assert torch.equal(saved[-1], outputs(context.rebuild(twice), context.dataset.test))


@pytest.mark.long
def test_a_users_transformer_loses_a_block_and_what_narrowing_is_left_and_is_rebuilt(
    finished, context, untimed, tmp_path, saved
):
    (tmp_path / "their_fusion.py").write_text(THEIR_TRANSFORMER.replace("True), 1)", "True), 2)"))
    section = Distill(
        model=Model(factory="their_fusion:Fusion"), train=SHORT, controls=Controls(no_distillation=False, seeds=1)
    )
    context = replace(context, recipe=context.recipe.model_copy(update={"distill": section}))
    parent = staged(distill.distill, finished.artifact("teacher"), section, context, tmp_path / "d")
    config = Prune(macs=0.5, depth=0.5, allocation="uniform", train=SHORT, **ANY_LOSS)
    made = staged(prune.prune, parent, config, context, tmp_path / "p")
    again = context.rebuild(made)
    gone = [isinstance(layer, Skipped) for layer in again.inner.trunk.layers]
    assert sum(gone) == len(gone) // 2 and made.meta["macs"] <= 0.5 * parent.meta["macs"]
    assert any(note.startswith("blocks removed: trunk.layers.") for note in made.meta["notes"])
    assert torch.equal(saved[-1], outputs(again, context.dataset.test))


def test_an_encoder_is_known_by_the_modality_that_reaches_it(finished, context):
    made = finished.artifact("teacher")
    module, contract = context.rebuild(made), contract_of(made)
    groups, _ = groups_of(module, contract, Prune())
    found = branches_of(module, contract, groups)
    assert {name: {group.root.rpartition(".")[0] for group in of} for name, of in found.items()} == {
        "image": {"encoders.image.features", "encoders.image.project"},
        "audio": {"encoders.audio.features", "encoders.audio.project"},
        "fusion": {"fusion"},
    }


@pytest.mark.parametrize("demanded", [False, True])
def test_what_torch_pruning_throws_leaves_the_parent_and_the_report_says_why(
    finished, context, tmp_path, monkeypatch, demanded
):
    def broken(*given):
        raise RuntimeError("shapes cannot be multiplied (2x32 and 16x2)")

    monkeypatch.setattr(groups, "dependencies", broken)
    parent, config = finished.artifact("distill"), Prune(macs=0.7) if demanded else Prune()
    made = staged(prune.prune, parent, config, context, tmp_path / "p")
    assert made.file("model.onnx").read_bytes() == parent.file("model.onnx").read_bytes()
    assert any("unpruned" in note and "shapes cannot be multiplied" in note for note in made.meta["notes"])
    assert bool(made.meta["misses"]) == demanded
