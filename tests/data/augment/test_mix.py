"""Mixes: the same for whoever asks for a row's view, and labels that count by their parts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmedge.contract import Contract
from mmedge.data.augment.chance import Chance
from mmedge.data.augment.mix import mixed, mixing
from mmedge.errors import MmedgeError
from mmedge.recipe import Augment, Mix, Train
from mmedge.spec import ArraySpec
from mmedge.tasks import Head
from mmedge.training import losses
from mmedge.training.loop.batches import Look, Maker, Training, plans, view_of
from mmedge.training.objectives import Supervised
from mmedge.training.teaching.sources import TrainingViews
from tests.conftest import parsed
from tests.heads import samples as made_samples

COUNT = 200
RNG = np.random.default_rng(0)
PRESENT = np.ones((COUNT, 2), bool)
PRESENT[::3, 0] = False
SHAPES = {"image": (3, 8, 10), "series": (2, 12)}
CONTRACT_INPUTS = {name: ArraySpec(kind="array", shape=shape) for name, shape in SHAPES.items()}


def samples(head=None, targets=None):
    inputs = {name: RNG.normal(size=(COUNT, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    ids = tuple(map(str, range(COUNT)))
    given = ("train", ids, inputs, PRESENT, np.arange(COUNT) % 3 if targets is None else targets, np.arange(COUNT))
    return made_samples(*given) if head is None else made_samples(*given, head=head)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mix_is_a_function_of_seed_view_and_row_and_the_teacher_sees_the_same(kind):
    data, mix = samples(), Mix(kind=kind, alpha=1.0)
    look, some = Look({"image": Augment(shift=1)}, 3, 2, mix), np.array([40, 3, 3, 17])
    whole = view_of(data, np.arange(COUNT), look)
    for name, x in view_of(data, some, look).items():
        assert torch.equal(x, whole[name][some]) and x.dtype == torch.float32
    taught = TrainingViews(data, look.augment, 3, mix)
    assert all(torch.equal(x, whole[name]) for name, x in taught.inputs(np.arange(COUNT), 2).items())
    plain = TrainingViews(data, look.augment, 3)
    assert taught.key != plain.key and not torch.equal(plain.inputs(some, 2)["image"], whole["image"][some])


def test_a_row_is_mixed_only_with_one_that_has_all_that_it_has_and_by_the_share_that_is_asked():
    chance = Chance(0, 0, np.arange(COUNT), COUNT)
    how = mixing(Mix(alpha=1.0, share=0.5), chance, PRESENT)
    changed = how.own < 1
    assert (PRESENT[how.partner[changed]] | ~PRESENT[changed]).all()
    assert 0.3 < changed.mean() < 0.5 and how.own.min() >= 0 and abs(how.own[changed].mean() - 0.5) < 0.1


def test_cutmix_takes_a_box_of_the_partner_as_large_as_its_part():
    how = mixing(Mix(kind="cutmix", alpha=1.0), Chance(0, 0, np.arange(COUNT), COUNT), np.ones((COUNT, 1), bool))
    for shape in SHAPES.values():
        found = mixed(np.zeros((COUNT, *shape), np.float32), np.ones((COUNT, *shape), np.float32), how)
        assert set(np.unique(found)) == {0, 1}
        np.testing.assert_allclose(found.reshape(COUNT, -1).mean(axis=1), 1 - how.own, atol=0.11)
        assert (found[:, 0] == found[:, 1]).all()  # the same place in every channel
    numbers = mixed(np.zeros((COUNT, 4), np.float32), np.ones((COUNT, 4), np.float32), how)
    np.testing.assert_allclose(numbers, np.tile(1 - how.own[:, None], 4), atol=1e-6)


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel", "ordinal"])
def test_labels_count_by_their_parts(task):
    labels = ("a", "b", "c")
    head = Head(task=task) if task == "regression" else Head(task=task, labels=labels)
    targets = {
        "regression": RNG.normal(size=COUNT),
        "multilabel": (RNG.random((COUNT, 3)) < 0.5).astype(np.float32),
    }.get(task, np.arange(COUNT) % 3)
    data = samples(head, targets)
    contract = Contract(modalities=CONTRACT_INPUTS, heads={"logits": head})
    train = Train(batch_size=32, mix=Mix(alpha=1.0), modality_dropout=0.0)
    training = Training(contract, data, data, train, np.arange(COUNT), 0, 0)
    plan = next(plans(training, 0))
    batch, how = Maker(training)[plan], Look({}, 0, 0, train.mix).mixing(data, plan.index)
    width = {"regression": 1, "ordinal": 2}.get(task, 3)
    output = torch.randn(32, width)

    def module(present, **inputs):
        return {"logits": output}

    found = Supervised(contract, train)(module, batch)
    plain = Supervised(contract, Train())
    expected = 0.0
    for row in range(32):
        one = Maker(Training(contract, data, data, Train(), np.arange(COUNT), 0, 0))
        for source, part in ((plan.index[row], how.own[row]), (how.partner[row], 1 - how.own[row])):
            alone = one[type(plan)(np.array([source]), 0, np.ones((1, 2), bool), 0.0, 1.0)]
            expected += part * float(plain(lambda present, row=row, **x: {"logits": output[row : row + 1]}, alone))
    assert float(found) == pytest.approx(expected / 32, rel=1e-4)
    if task == "classification":
        each = [
            F.cross_entropy(output, torch.from_numpy(t), reduction="none")
            for t in (targets[plan.index], targets[how.partner])
        ]
        own = torch.from_numpy(how.own)
        assert float(found) == pytest.approx(float((own * each[0] + (1 - own) * each[1]).mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"words": {"kind": "text"}}, "'words' holds ids or points, of which there is no half"),
        ({"more": {"kind": "tabular", "columns": ["b"]}, "task": "retrieval"}, "a retrieval compares samples"),
        ({"task": "generation"}, "a generation learns ids"),
    ],
)
def test_what_cannot_be_mixed_is_refused(change, said):
    task = change.pop("task", "classification")
    modalities = {"numbers": {"kind": "tabular", "columns": ["a"]}, **change}
    data = {"manifest": "m.csv", "task": task, "modalities": modalities}
    with pytest.raises(MmedgeError, match=said):
        parsed({"name": "t", "data": data, "teacher": {"train": {"mix": {"kind": "mixup"}}}})


def test_arrays_count_by_their_parts_too():
    head = Head(task="frames", shape=(4,), mean=(0.0,), std=(1.0,))
    output, targets, parts = torch.randn(6, 4), torch.randn(6, 4), torch.rand(6)
    whole = losses.of(head).label_loss(output, targets, head, Train(), parts)
    each = [losses.of(head).label_loss(output[k : k + 1], targets[k : k + 1], head, Train(), None) for k in range(6)]
    assert float(whole) == pytest.approx(float((torch.stack(each) * parts).mean()), rel=1e-5)
