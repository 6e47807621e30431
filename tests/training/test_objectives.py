"""What the loop minimises: hints of every kind together, each on its schedule, and several answers a sample."""

import itertools
import math

import numpy as np
import pytest
import torch

from mmedge.contract import Contract
from mmedge.models import load
from mmedge.models.load import contract_of
from mmedge.recipe import Distill, Hint, Loss, Model, Train
from mmedge.spec import ArraySpec
from mmedge.stages import distill
from mmedge.tasks import Head
from mmedge.training.loop.batches import Batch, Training, batches, every_side
from mmedge.training.losses import classification, regression
from mmedge.training.objectives import Distillation, Supervised, scheduled
from mmedge.training.teaching.taught import teacher_for
from tests.conftest import staged


def all_of(context, train):
    samples = context.dataset.train
    return Training(context.dataset.contract, samples, samples, train, np.arange(len(samples)), 0, 0)


def one_batch(context, train, passed=0.0):
    batch = next(batches(all_of(context, train), epoch=0))
    return Batch(batch.index, batch.view, batch.inputs, batch.present, batch.targets, batch.weights, passed)


def made(context, loss, train, model=None):
    """A student, its objective and the contract."""
    config = Distill(loss=loss, train=train, model=model or context.recipe.distill.model, cache="never")
    contract = context.contract(config.model)
    torch.manual_seed(0)
    student = context.build(config.model, contract)
    teacher = teacher_for(config, context, train)
    return student, Distillation(student, teacher, contract, loss, train), contract


TRAIN = Train(batch_size=16)
EVERY_KIND = (
    Hint(kind="features"),
    Hint(kind="relations"),
    Hint(teacher="encoders.audio", student="encoders.audio", kind="contrastive"),
    Hint(teacher="encoders.image.features", student="encoders.image.features", kind="attention"),
    Hint(teacher="encoders.image", student="encoders.image"),
)


@pytest.mark.parametrize("dropout", [0.5, "every"])
def test_hints_of_every_kind_at_both_levels_combine_and_reach_the_student(context, dropout):
    train = TRAIN.model_copy(update={"modality_dropout": dropout})
    student, objective, _ = made(context, Loss(kind="dist", hints=EVERY_KIND), train)
    loss = objective(student.train(), one_batch(context, train))
    loss.backward()
    parameters = [*student.named_parameters(), *objective.named_parameters()]
    missing = [name for name, p in parameters if p.grad is None or not torch.isfinite(p.grad).all()]
    assert torch.isfinite(loss) and not missing


def test_the_loss_is_the_sum_of_its_parts_each_by_its_weight(context):
    def value(**keys):
        student, objective, _ = made(context, Loss(**keys), TRAIN)
        return objective(student.eval(), one_batch(context, TRAIN)).item()

    hint = {"teacher": "fusion", "student": "fusion", "kind": "relations"}
    labels, logits = value(logits=0), value(labels=0)
    relations = value(labels=0, logits=0, hints=(Hint(**hint),))
    together = value(labels=2, logits=0.5, hints=(Hint(**hint, weight=3),))
    assert together == pytest.approx(2 * labels + 0.5 * logits + 3 * relations, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("constant", (1, 1, 1)), ("linear", (1, 0.75, 0.5)), ("rise", (0, 0.25, 0.5)), ("cosine", (1, 0.853553, 0.5))],
)
def test_schedules_are_functions_of_the_share_of_epochs_that_passed(schedule, factors):
    assert [scheduled(schedule, passed) for passed in (0, 0.25, 0.5)] == pytest.approx(list(factors), rel=1e-5)
    assert scheduled("cosine", 1) == pytest.approx(0, abs=1e-9) and math.isclose(scheduled("linear", 1), 0)


def test_a_hint_has_a_schedule_of_its_own_and_the_losses_where_it_has_none(context):
    def value(passed, schedule, hint_schedule):
        hint = Hint(teacher="fusion", student="fusion", kind="relations", schedule=hint_schedule)
        student, objective, _ = made(context, Loss(labels=0, logits=0, hints=(hint,), schedule=schedule), TRAIN)
        return objective(student.eval(), one_batch(context, TRAIN, passed)).item()

    whole = value(0.0, "constant", None)
    assert value(0.75, "linear", None) == pytest.approx(whole / 4, rel=1e-5)
    assert value(0.75, "linear", "constant") == pytest.approx(whole, rel=1e-5)
    assert value(0.75, "constant", "rise") == pytest.approx(whole * 0.75, rel=1e-5)


def test_every_side_is_all_one_part_and_the_rest_and_never_nothing():
    rng = np.random.default_rng(0)
    available = np.array([[True, True, True], [True, False, False], [True, True, False]] * 50)
    sides = every_side(available, rng)
    assert sides.shape == (150, 3, 3) and sides.any(axis=2).all()
    assert (sides[:, 0] == available).all() and not (sides & ~available[:, None]).any()
    whole = available.all(axis=1)
    assert (sides[whole, 1] ^ sides[whole, 2]).all()  # a part and the rest
    assert len(np.unique(sides[whole, 1], axis=0)) == 6
    two = every_side(np.ones((40, 2), bool), rng)
    for row in two:  # of two modalities, these are all the subsets
        assert {tuple(side) for side in row} == {(True, True), (True, False), (False, True)}


def test_answers_to_every_side_are_those_of_three_calls(context):
    train = TRAIN.model_copy(update={"modality_dropout": "every"})
    student, _, contract = made(context, Loss(), train)
    batch = one_batch(context, train)
    together = student.eval()(present=batch.present, **batch.inputs)["logits"].reshape(16, 3, 10)
    for side in range(3):
        alone = student(present=batch.present[:, side], **batch.inputs)["logits"]
        torch.testing.assert_close(together[:, side], alone)
    each = [
        Supervised(contract, train)(student, Batch(batch.index, 0, batch.inputs, batch.present[:, k], batch.targets))
        for k in range(3)
    ]
    torch.testing.assert_close(Supervised(contract, train)(student, batch), sum(each) / 3)


def test_a_split_batch_of_every_side_has_the_same_loss(context):
    train = TRAIN.model_copy(update={"modality_dropout": "every"})
    student, objective, _ = made(context, Loss(hints=(Hint(),)), train)
    batch = one_batch(context, train)
    halves = train.model_copy(update={"accumulate": 2})
    drawn = batches(all_of(context, halves), epoch=0)
    parts = [next(drawn), next(drawn)]
    assert np.array_equal(np.concatenate([part.index for part in parts]), batch.index)
    whole = objective(student.eval(), batch)
    torch.testing.assert_close(whole, sum(objective(student, part) * part.share for part in parts))


def test_contrasts_are_between_samples_and_not_between_answers_to_one(context):
    train = TRAIN.model_copy(update={"modality_dropout": "every"})
    hint = Hint(teacher="fusion", student="fusion", kind="contrastive")
    student, objective, _ = made(context, Loss(labels=0, logits=0, hints=(hint,)), train)
    batch = one_batch(context, train)
    batch = Batch(batch.index, batch.view, batch.inputs, batch.present[:, :1].expand(-1, 3, -1), batch.targets)
    thrice = objective(student.eval(), batch)
    once = objective(student, Batch(batch.index, batch.view, batch.inputs, batch.present[:, 0], batch.targets))
    torch.testing.assert_close(thrice, once)  # one among 16, not among 48


def test_contrastive_hints_bring_both_sides_into_a_shared_space(context):
    hint = Hint(teacher="encoders.image.features", student="encoders.audio", kind="contrastive")
    _, objective, _ = made(context, Loss(hints=(hint,)), TRAIN)
    (project,) = objective.project
    assert project.student.out_features == project.teacher.out_features == 128  # the teacher's map is wider
    assert project.teacher.weight.requires_grad


def test_regressions_losses_weigh_the_same_in_any_unit():
    spec = ArraySpec(kind="array", shape=(3,))
    torch.manual_seed(0)
    output, targets = torch.randn(8, 1), torch.randn(8)

    def loss(scale):
        contract = Contract(task="regression", modalities={"x": spec}, output="value", target_std=scale)
        present, labels = torch.ones(8, 1, dtype=torch.bool), {"value": targets * scale}
        batch = Batch(np.arange(8), 0, {"x": torch.zeros(8, 3)}, present, labels)
        return Supervised(contract, TRAIN)(lambda present, x: {"value": output * scale}, batch)

    torch.testing.assert_close(loss(1e5), loss(1.0))
    expected = regression.label_loss(output, targets, Head(task="regression"), TRAIN, None)
    torch.testing.assert_close(loss(1.0), expected)


def test_a_student_that_imagines_a_modality_learns_its_features_and_is_never_given_it(context, finished, tmp_path):
    import onnx

    model = context.recipe.distill.model.model_copy(
        update={
            "modalities": ("image",),
            "hallucinate": ("audio",),
            "encoders": {"image": context.recipe.distill.model.encoders["image"]},
        }
    )
    train = Train(epochs=3, batch_size=16, learning_rate=0.01)
    controls = {"no_distillation": False, "seeds": 1}
    config = Distill(model=model, train=train, loss=Loss(logits=0, labels=0, hints=(Hint(),)), controls=controls)
    (loss,) = config.losses
    assert [(h.teacher, h.student) for h in loss.hints] == [("fusion", "fusion"), ("encoders.audio", "imagine.audio")]
    made_ = staged(distill.distill, finished.artifact("teacher"), config, context, tmp_path / "d")
    names = [value.name for value in onnx.load(made_.file("model.onnx")).graph.input]
    assert sorted(names) == ["image", "present"]
    contract = contract_of(made_)
    torch.manual_seed(context.recipe.seed)
    fresh = context.build(model, contract).state_dict()
    trained = context.rebuild(made_).state_dict()
    assert all(not torch.equal(fresh[name], trained[name]) for name in fresh if name.startswith("imagine.audio"))


def test_hallucination_needs_a_modality_that_the_network_lacks():
    for keys in ({"hallucinate": ["audio"]}, {"hallucinate": ["audio"], "modalities": ["audio"]}):
        with pytest.raises(ValueError, match="'hallucinate' names modalities that are not among"):
            Model(**keys)
    with pytest.raises(ValueError, match="belongs to the built-in network"):
        Model(hallucinate=["audio"], modalities=["image"], factory="a:b")


@pytest.mark.long
def test_of_several_losses_the_best_on_validation_teaches_every_seed(context, finished, tmp_path):
    train = Train(epochs=1, batch_size=16)
    controls = {"no_distillation": False, "seeds": 2}
    config = Distill(model=context.recipe.distill.model, train=train, candidates="auto", controls=controls)
    assert [(loss.logits, loss.schedule) for loss in config.losses] == list(
        zip((1, 4, 0.25, 1), itertools.chain(["constant"] * 3, ["linear"]))
    )
    made_ = staged(distill.distill, finished.artifact("teacher"), config, context, tmp_path / "d")
    rows = made_.meta["losses"]
    kept = [row for row in rows if row["kept"]]
    assert len(rows) == 4 and len(kept) == 1 and kept[0]["selection"] == max(row["selection"] for row in rows)
    assert made_.meta["loss"] == kept[0]["loss"] and made_.meta["students"] == ["distilled-0", "distilled-1"]
    assert any(note.startswith("loss chosen in one seed by validation") for note in made_.meta["notes"])


def test_kd_of_a_softened_teacher_has_the_gradient_of_matched_logits_at_high_temperature():
    # Hinton et al., section 2.1: with zero-mean logits and a high temperature, distillation is matching logits.
    rng = np.random.default_rng(0)
    student, teacher = (torch.from_numpy(x - x.mean(1, keepdims=True)) for x in rng.normal(size=(2, 6, 5)))
    student.requires_grad_()
    classification.kd(student, teacher, 1000.0).backward()
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 5 / 6, rtol=0.01, atol=1e-4)


def test_a_module_of_ones_own_answers_every_side_too(context):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(28 * 28 + 16 * 24, 10)

        def forward(self, image, audio):  # knows no presence: the training mean stands in
            return self.out(torch.cat([image.flatten(1), audio.flatten(1)], dim=1))

    contract = context.dataset.contract
    torch.manual_seed(0)
    module = load.build(Model(factory="own:Own"), contract, factory=Own, means=context.means(contract))
    batch = one_batch(context, TRAIN.model_copy(update={"modality_dropout": "every"}))
    together = module(present=batch.present, **batch.inputs)["logits"].reshape(16, 3, 10)
    for side in range(3):
        torch.testing.assert_close(together[:, side], module(present=batch.present[:, side], **batch.inputs)["logits"])
