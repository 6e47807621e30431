"""Batches: every random choice is a function of seed, epoch and row, never of the batch a row comes in."""

import dataclasses

import numpy as np
import pytest
import torch

from mmedge.contract import Contract
from mmedge.recipe import Augment, Train
from mmedge.spec import ArraySpec
from mmedge.training.loop.batches import Look, Training, batches, drop_modalities, steps_per_epoch, view_of
from tests.heads import CLASSES
from tests.heads import samples as made_samples

RNG = np.random.default_rng(0)
CONTRACT = Contract(
    modalities={name: ArraySpec(kind="array", shape=(1,)) for name in ("image", "series", "numbers")},
    heads={"logits": CLASSES},
)


def made(n=50):
    inputs = {
        "image": RNG.normal(size=(n, 1, 9, 8)).astype(np.float32),
        "series": RNG.normal(size=(n, 3, 10)).astype(np.float32),
        "numbers": RNG.normal(size=(n, 4)).astype(np.float32),
    }
    return made_samples(
        "train",
        tuple(map(str, range(n))),
        inputs,
        np.ones((n, 3), bool),
        np.arange(n, dtype=np.int64) % 5,
        np.arange(n),
    )


ALL = {name: Augment(shift=2, shift_rows=1, mask=3, mask_rows=2, noise=0.1) for name in ("image", "series", "numbers")}


def drawn(samples, train, *, seed=0, epoch=0, usable=None):
    usable = np.arange(len(samples)) if usable is None else usable
    return list(batches(Training(CONTRACT, samples, samples, train, usable, seed, 5), epoch))


def test_a_rows_view_is_the_same_whatever_the_batch():
    samples = made()
    whole = view_of(samples, np.arange(50), Look(ALL, 1, 3))
    some = np.array([40, 3, 3, 17])
    for name, x in view_of(samples, some, Look(ALL, 1, 3)).items():
        torch.testing.assert_close(x, whole[name][some], rtol=0, atol=0)


@pytest.mark.parametrize("other", [(2, 3), (1, 4)])
def test_another_view_or_seed_shows_something_else(other):
    samples = made()
    first = view_of(samples, np.arange(50), Look(ALL, 1, 3))
    for name, x in view_of(samples, np.arange(50), Look(ALL, *other)).items():
        assert not torch.equal(x, first[name])


def test_without_augmentation_a_view_is_the_sample():
    samples = made()
    for name, x in view_of(samples, np.array([4, 2]), Look({}, 1, 1)).items():
        np.testing.assert_array_equal(x.numpy(), samples.inputs[name][[4, 2]])


def test_every_row_is_drawn_and_equally_often():
    samples, train = made(64), Train(batch_size=16)
    counts = np.bincount(np.concatenate([batch.index for batch in drawn(samples, train)]), minlength=64)
    assert (counts == 1).all()


def test_few_usable_rows_fill_as_many_steps_and_no_other_row_is_drawn():
    samples, train, usable = made(64), Train(batch_size=16), np.array([3, 8, 20])
    steps = drawn(samples, train, usable=usable)
    counts = np.bincount(np.concatenate([batch.index for batch in steps]), minlength=64)
    assert len(steps) == steps_per_epoch(len(samples), train) == 4
    assert set(np.flatnonzero(counts)) == set(usable) and np.ptp(counts[usable]) <= 1


def test_a_split_smaller_than_a_batch_is_one_batch():
    (batch,) = drawn(made(5), Train(batch_size=16))
    assert sorted(batch.index) == list(range(5))


def test_the_same_seed_and_epoch_give_the_same_batches_and_others_do_not():
    samples, train = made(), Train(batch_size=10, augment=ALL, views=2)
    first, second = drawn(samples, train), drawn(samples, train)
    for one, two in zip(first, second):
        np.testing.assert_array_equal(one.index, two.index)
        assert torch.equal(one.present, two.present)
        assert all(torch.equal(one.inputs[name], two.inputs[name]) for name in one.inputs)
    assert not np.array_equal(first[0].index, drawn(samples, train, seed=1)[0].index)
    assert not np.array_equal(first[0].index, drawn(samples, train, epoch=1)[0].index)


def test_an_epochs_view_repeats_after_the_number_of_views():
    samples, train = made(), Train(batch_size=10, views=3)
    assert [drawn(samples, train, epoch=epoch)[0].view for epoch in range(5)] == [0, 1, 2, 0, 1]


def test_targets_are_those_of_the_rows():
    samples = made()
    for batch in drawn(samples, Train(batch_size=10)):
        np.testing.assert_array_equal(batch.targets["logits"].numpy(), samples.targets["logits"][batch.index])


@pytest.mark.parametrize("modalities", [2, 3])
def test_modality_dropout_never_empties_a_row_and_reaches_every_subset(modalities):
    available = np.ones((4000, modalities), bool)
    kept = drop_modalities(available, 0.5, np.random.default_rng(0))
    assert kept.any(axis=1).all()
    assert len({tuple(row) for row in kept}) == 2**modalities - 1
    assert (~kept.all(axis=1)).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_the_share_of_samples_that_lose_modalities_is_the_one_that_is_asked_for(share):
    kept = drop_modalities(np.ones((4000, 2), bool), share, np.random.default_rng(0))
    assert (~kept.all(axis=1)).mean() == pytest.approx(share, abs=0.03)


def test_modality_dropout_gives_nothing_back_that_is_missing_and_leaves_something():
    available = np.random.default_rng(0).random((3000, 3)) < 0.5
    available[~available.any(axis=1), 0] = True
    kept = drop_modalities(available, 0.9, np.random.default_rng(1))
    assert kept.any(axis=1).all() and not (kept & ~available).any()


def test_no_dropout_where_none_is_asked_for_or_there_is_one_modality():
    available = np.ones((9, 2), bool)
    assert drop_modalities(available, 0.0, np.random.default_rng(0)).all()
    assert drop_modalities(available[:, :1], 0.9, np.random.default_rng(0)).all()


def test_every_set_of_modalities_that_samples_have_is_drawn_as_often_where_that_is_asked_for():
    """Ten samples of all, forty of one modality alone, all of them usable, and fifty of two that are not."""
    samples = dataclasses.replace(made(100), present=np.repeat([[1, 1, 1], [0, 0, 1], [1, 1, 0]], [10, 40, 50], 0) > 0)

    def share(**train):
        found = [
            row
            for epoch in range(40)
            for batch in drawn(
                samples, Train(batch_size=25, modality_dropout=0.0, **train), epoch=epoch, usable=np.arange(50)
            )
            for row in batch.index
        ]
        return np.bincount(np.array(found), minlength=100) / len(found)

    subsets, uniform = share(sampling="subsets"), share()
    assert subsets[:10].sum() == pytest.approx(0.5, abs=0.03) and uniform[:10].sum() == pytest.approx(0.2, abs=0.01)
    assert (subsets[:50] > 0).all() and not subsets[50:].any()
