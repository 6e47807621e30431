"""The teacher's cached answers: those that it would give now, row by row and view by view."""

import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError
from mmedge.progress import Silent
from mmedge.recipe import Augment, Distill, Hint, Loss, Train
from mmedge.spec import ArraySpec
from mmedge.training.loop.batches import Batch, Training, batches
from mmedge.training.loop.fit import fit
from mmedge.training.objectives import Distillation
from mmedge.training.teaching import caching
from mmedge.training.teaching.caching import Demand
from mmedge.training.teaching.sources import ModuleSource, TeacherOutputs, TrainingViews
from mmedge.training.teaching.taught import teacher_from
from mmedge.training.teaching.teachers import Teacher
from tests.heads import samples as made_samples

CONTRACT = Contract(
    task="classification", modalities={"series": ArraySpec(kind="array", shape=(2, 6))}, labels=("a", "b", "c")
)
CPU = torch.device("cpu")
TRAIN = Train(batch_size=16, views=2, augment={"series": Augment(shift=2, noise=0.3)})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fusion = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh())
        self.head = nn.Linear(5, 3)
        self.calls = 0

    def forward(self, present, series):
        self.calls += 1
        return {"logits": self.head(self.fusion(series))}


def samples(n=200):
    x = np.random.default_rng(0).normal(size=(n, 2, 6)).astype(np.float32)
    return made_samples(
        "train", tuple(map(str, range(n))), {"series": x}, np.ones((n, 1), bool), np.arange(n) % 3, np.arange(n)
    )


def teacher(module, folder, data=None, train=TRAIN, key="t", hint="fusion", mode="always", fits=1, **form):
    hints = [Hint(teacher=hint)]
    data = data or samples()
    source = ModuleSource(module, CONTRACT, TrainingViews(data, train.augment, 3), hints, key=key, who="the teacher")
    demand = Demand.by(train, fits, mode, **form)
    return Teacher(source, len(data), train.views, demand=demand, hints=hints, folder=folder, progress=Silent())


def shuffled(epoch):
    return list(batches(Training(CONTRACT, samples(), samples(), TRAIN, np.arange(200), 7, 3), epoch))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Net().eval()


def test_a_cached_answer_is_the_teachers_answer_to_that_very_view_of_that_very_sample(module, tmp_path):
    """Fails where the cache is keyed by position in the epoch, or by sample without the view."""
    cached = teacher(module, tmp_path)
    for epoch in (0, 1, 2):
        for batch in shuffled(epoch):
            answer = cached.outputs(batch, CPU)
            logits, (features,) = answer.heads["logits"].logits, answer.hints
            with torch.no_grad():
                expected = module(present=batch.present, **batch.inputs)["logits"]
                hint = module.fusion(batch.inputs["series"])
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(features, hint, rtol=1e-5, atol=1e-5)


def test_the_teacher_is_asked_once_a_view_and_not_again_by_the_next_process(module, tmp_path):
    cached = teacher(module, tmp_path)
    assert cached.decision.kept  # as it was told; nothing is measured
    for epoch in (0, 1, 2, 3):
        for batch in shuffled(epoch):
            cached.outputs(batch, CPU)
    asked = module.calls
    assert asked == 2 * 2  # two views of 200 samples in batches of 128
    again = teacher(module, tmp_path)
    again.outputs(shuffled(0)[0], CPU)
    assert module.calls == asked


@pytest.mark.parametrize("other", [{"key": "u"}, {"train": TRAIN.model_copy(update={"augment": {}})}])
def test_another_teacher_or_augmentation_does_not_find_these_answers(module, tmp_path, other):
    batch = shuffled(0)[0]
    first = teacher(module, tmp_path).outputs(batch, CPU).heads["logits"].logits
    asked = module.calls
    torch.manual_seed(1)
    stranger = Net().eval()
    second = teacher(stranger, tmp_path, **other).outputs(batch, CPU).heads["logits"].logits
    assert stranger.calls and module.calls == asked and not torch.equal(first, second)


def test_the_teacher_sees_all_that_a_sample_has_whatever_the_student_is_shown(module, tmp_path):
    batch = shuffled(0)[0]
    blind = Batch(batch.index, batch.view, batch.inputs, torch.zeros_like(batch.present), batch.targets)
    cached = teacher(module, tmp_path)
    shown_nothing, shown_all = (cached.outputs(each, CPU).heads["logits"].logits for each in (blind, batch))
    assert torch.equal(shown_nothing, shown_all)


def test_a_teacher_that_answers_nan_is_told_with_the_sample(module, tmp_path):
    data = samples()
    data.inputs["series"][13] = np.inf
    with pytest.raises(MmedgeError, match="training sample 13"):
        teacher(module, tmp_path, data).outputs(shuffled(0)[0], CPU)
    assert not list(tmp_path.glob("*.npy"))


def test_an_unknown_hint_is_told_with_the_layer_that_was_meant(module, tmp_path):
    with pytest.raises(UsageError, match="did you mean 'fusion'"):
        teacher(module, tmp_path, hint="fusoin")


def test_no_more_views_count_as_shown_than_one_training_has_epochs(module, tmp_path):
    train, shown = TRAIN.model_copy(update={"views": 5, "epochs": 2}), TrainingViews(samples(), TRAIN.augment, 3)
    source = ModuleSource(module, CONTRACT, shown, [], key="t", who="the teacher")
    context = SimpleNamespace(dataset=SimpleNamespace(train=samples()), work=tmp_path / "work", progress=Silent())
    said = teacher_from(source, Distill(), context, train, fits=3).decision.reason
    assert "6 passes over the training split show 2 views" in said


class Counted(nn.Module):
    """An encoder that takes its time, and counts its rows."""

    def __init__(self):
        super().__init__()
        self.layers, self.rows = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), 0

    def forward(self, x):
        self.rows += len(x)
        time.sleep(0.005)
        return self.layers(x)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.moving, self.still, self.head = Counted(), Counted(), nn.Linear(5, 3)

    def forward(self, present, moving, still):
        return {"logits": self.head(self.moving(moving) + self.still(still))}


def test_of_several_views_an_encoder_runs_once_for_a_modality_that_none_of_them_changes(tmp_path):
    spec, count = ArraySpec(kind="array", shape=(2, 6)), 40
    contract = Contract(task="classification", modalities={"moving": spec, "still": spec}, labels=("a", "b", "c"))
    x = {
        name: np.random.default_rng(n).normal(size=(count, 2, 6)).astype(np.float32)
        for n, name in enumerate(contract.modalities)
    }
    ids, rows = tuple(map(str, range(count))), np.arange(count)
    data = made_samples("train", ids, x, np.ones((count, 2), bool), rows % 3, rows)
    train = TRAIN.model_copy(update={"views": 3, "augment": {"moving": Augment(noise=0.3)}})
    module = Pair().eval()
    views = TrainingViews(data, train.augment, 3)
    source = ModuleSource(module, contract, views, [], key="t", who="the teacher")
    kept = Teacher(source, count, 3, demand=Demand.by(train, 1, "always"), hints=[], folder=tmp_path, progress=Silent())
    for view in range(3):
        batch = Batch(rows, view, {}, torch.ones(count, 2, dtype=torch.bool), {})
        inputs = views.inputs(rows, view)
        asked = module.head(module.moving.layers(inputs["moving"]) + module.still.layers(inputs["still"]))
        torch.testing.assert_close(kept.outputs(batch, CPU).heads["logits"].logits, asked, rtol=1e-5, atol=1e-5)
    assert module.moving.rows >= 3 * count and module.still.rows < 2 * count
    assert not list(tmp_path.glob("*parts*"))


class Fixed:
    """A source with an answer for the even rows, over two of three classes."""

    key, fixed, notes, heads, modules = "fixed", True, (), ("logits",), ()
    columns = {"logits": np.array([0, 2])}

    def outputs(self, index, view):
        logits = np.stack([index, -index], axis=1).astype(np.float32)
        return TeacherOutputs({"logits": np.where(index[:, None] % 2 == 0, logits, 0)}, index % 2 == 0)


def test_samples_without_an_answer_and_classes_that_the_teacher_does_not_know_are_left_to_the_labels(tmp_path):
    """The gradient of the logit loss is zero there, and elsewhere that of the softmax over the known classes."""
    teacher = Teacher(Fixed(), 200, 2, demand=Demand(2, 16, "always"), hints=[], folder=tmp_path, progress=Silent())
    student = Net()
    objective = Distillation(student, teacher, CONTRACT, Loss(labels=0, kind="kd", temperature=1.0), TRAIN)
    batch = shuffled(0)[0]
    output = torch.randn(len(batch.index), 3, requires_grad=True)
    objective(lambda **_: {"logits": output}, batch).backward()
    taught = (batch.index % 2 == 0) & (batch.targets["logits"].numpy() != 1)
    assert 0 < taught.sum() < (batch.index % 2 == 0).sum() < len(taught)
    assert torch.all(output.grad[~taught] == 0) and torch.all(output.grad[:, 1] == 0)
    rows = torch.from_numpy(batch.index[taught]).float()
    theirs = torch.softmax(torch.stack([rows, -rows], 1), 1)
    ours = torch.softmax(output.detach()[taught][:, [0, 2]], 1)
    torch.testing.assert_close(output.grad[taught][:, [0, 2]], (ours - theirs) / len(taught), atol=1e-5, rtol=1e-4)


def distilled(module, folder, mode):
    """A student's training with the teacher's answers kept or asked for, and what was told."""
    torch.manual_seed(1)
    student, train = Net(), TRAIN.model_copy(update={"epochs": 4})
    teaches = teacher(module, folder, train=train, mode=mode)
    loss = Loss(hints=(Hint(),))
    fitted = fit(
        student,
        Distillation(student, teaches, CONTRACT, loss, train),
        Training(CONTRACT, samples(), samples(60), train, np.arange(200), 0, 3),
        state=folder / "state",
        task="t",
        progress=Silent(),
    )
    return [record["loss"] for record in fitted.history], teaches.notes


def test_a_student_has_the_same_losses_whether_the_answers_are_kept_or_asked_for(module, tmp_path):
    kept, _ = distilled(module, tmp_path / "kept", "always")
    asked = module.calls
    live, notes = distilled(module, tmp_path / "live", "never")
    assert asked <= 2 + 2 * 2 and module.calls - asked >= 4 * 12  # once a view, once a step
    assert live == pytest.approx(kept, rel=1e-5)
    assert not list((tmp_path / "live").glob("*.npy")) and notes == (
        "the teacher runs at every step, as distill.cache asks",
    )


class Slow(Net):
    def forward(self, present, series):
        time.sleep(0.02)
        return super().forward(present, series)


def test_answers_are_kept_where_that_is_faster_and_the_figures_are_told(tmp_path):
    """20 ms against microseconds: no machine is so busy as to turn it round."""
    twice = teacher(Slow().eval(), tmp_path / "a", train=TRAIN.model_copy(update={"epochs": 20}), mode="measured")
    assert twice.decision.kept
    (said,) = twice.notes
    took = re.search(r"times as fast: a batch of 16 takes the teacher ([0-9.]+) ms", said)
    assert took and float(took[1]) >= 20 and "20 passes" in said and "2 views" in said
    # Each view is seen once: there is nothing to keep, however slow the teacher.
    once = TRAIN.model_copy(update={"epochs": 2})
    assert not teacher(Slow().eval(), tmp_path / "b", train=once, mode="measured").decision.kept
    # Trainings of three seeds see each view three times.
    assert teacher(Slow().eval(), tmp_path / "c", train=once, mode="measured", fits=3).decision.kept
    assert not list((tmp_path / "c").glob(".probe*"))


def test_the_decision_is_that_of_the_interrupted_call(module, tmp_path):
    train = TRAIN.model_copy(update={"epochs": 20})
    assert teacher(Slow().eval(), tmp_path, train=train, mode="measured").decision.kept
    again = teacher(module, tmp_path, train=train, mode="measured")
    assert again.decision.kept and module.calls == 0


def test_answers_that_the_disk_has_no_room_for_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    train = TRAIN.model_copy(update={"epochs": 20})
    decision = teacher(Slow().eval(), tmp_path, train=train, mode="measured").decision
    assert not decision.kept and "GB free" in decision.reason
