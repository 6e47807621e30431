"""The teacher's cached answers: those that it would give now, row by row and view by view."""

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.data.samples import Samples
from mmedge.errors import MmedgeError, UsageError
from mmedge.progress import Silent
from mmedge.recipe import Augment, Hint, Train
from mmedge.spec import ArraySpec, Contract
from mmedge.training.batches import Batch, batches
from mmedge.training.teachers import ModuleSource, Teacher

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
    return Samples(
        "train", tuple(map(str, range(n))), {"series": x}, np.ones((n, 1), bool), np.arange(n) % 3, np.arange(n)
    )


def teacher(module, folder, data=None, train=TRAIN, key="t", hint="fusion"):
    hints = [Hint(teacher=hint)]
    return Teacher(
        ModuleSource(module, CONTRACT, hints),
        data or samples(),
        train,
        key=key,
        view_seed=3,
        hints=hints,
        folder=folder,
        progress=Silent(),
    )


def shuffled(epoch):
    return list(batches(samples(), TRAIN, seed=7, view_seed=3, epoch=epoch, usable=np.arange(200)))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Net().eval()


def test_a_cached_answer_is_the_teachers_answer_to_that_very_view_of_that_very_sample(module, tmp_path):
    """Fails where the cache is keyed by position in the epoch, or by sample without the view."""
    cached = teacher(module, tmp_path)
    for epoch in (0, 1, 2):
        for batch in shuffled(epoch):
            logits, (features,) = cached.outputs(batch, CPU)
            with torch.no_grad():
                expected = module(present=batch.present, **batch.inputs)["logits"]
                hint = module.fusion(batch.inputs["series"])
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(features, hint, rtol=1e-5, atol=1e-5)


def test_the_teacher_is_asked_once_a_view_and_not_again_by_the_next_process(module, tmp_path):
    cached = teacher(module, tmp_path)
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
    first = teacher(module, tmp_path).outputs(batch, CPU)[0]
    asked = module.calls
    torch.manual_seed(1)
    stranger = Net().eval()
    second = teacher(stranger, tmp_path, **other).outputs(batch, CPU)[0]
    assert stranger.calls and module.calls == asked and not torch.equal(first, second)


def test_the_teacher_sees_all_that_a_sample_has_whatever_the_student_is_shown(module, tmp_path):
    batch = shuffled(0)[0]
    blind = Batch(batch.index, batch.view, batch.inputs, torch.zeros_like(batch.present), batch.targets)
    cached = teacher(module, tmp_path)
    assert torch.equal(cached.outputs(blind, CPU)[0], cached.outputs(batch, CPU)[0])


def test_a_teacher_that_answers_nan_is_told_with_the_sample(module, tmp_path):
    data = samples()
    data.inputs["series"][13] = np.inf
    with pytest.raises(MmedgeError, match="training sample 13"):
        teacher(module, tmp_path, data).outputs(shuffled(0)[0], CPU)
    assert not list(tmp_path.glob("*.npy"))


def test_an_unknown_hint_is_told_with_the_layer_that_was_meant(module, tmp_path):
    with pytest.raises(UsageError, match="did you mean 'fusion'"):
        teacher(module, tmp_path, hint="fusoin")
