"""Splits: shares, strata, whole groups, folds; always by the seed."""

import numpy as np
import pytest

from mmedge.data.manifest.splits import by_fold, by_ratio
from mmedge.recipe import Fold

SHARES = [0.7, 0.15, 0.15]


def test_every_class_has_its_share_in_every_split():
    labels = np.repeat(np.array(["a", "b", "c"]), [100, 40, 20])
    parts = by_ratio(labels, None, SHARES, 0)
    for label, count in (("a", 100), ("b", 40), ("c", 20)):
        np.testing.assert_allclose(np.bincount(parts[labels == label], minlength=3) / count, SHARES, atol=0.06)


def test_the_seed_decides_and_nothing_else():
    labels = np.array(list("ab") * 50)
    assert (by_ratio(labels, None, SHARES, 0) == by_ratio(labels, None, SHARES, 0)).all()
    assert (by_ratio(labels, None, SHARES, 0) != by_ratio(labels, None, SHARES, 1)).any()


def test_rows_without_a_label_are_for_training():
    labels = np.array(["a", "b", "", ""] * 20)
    assert not by_ratio(labels, None, SHARES, 0)[labels == ""].any()


def test_a_group_is_never_torn_apart_and_training_sees_every_class():
    rng = np.random.default_rng(0)
    groups = np.array([f"g{g}" for g in rng.integers(0, 20, 300)])
    labels = np.array([f"c{g[1:]}" if int(g[1:]) < 2 else "c9" for g in groups])  # two classes are of one group each
    for seed in range(5):
        parts = by_ratio(labels, groups, SHARES, seed)
        assert all(len(set(parts[groups == g])) == 1 for g in set(groups))
        assert set(labels) == set(labels[parts == 0]) and set(parts) == {0, 1, 2}


@pytest.mark.parametrize("grouped", [False, True])
def test_over_all_folds_every_row_is_tested_once(grouped):
    labels = np.array(["a", "b"] * 30)
    groups = np.array([f"g{row // 3}" for row in range(60)]) if grouped else None
    tested = np.zeros(60, int)
    for index in range(5):
        parts = by_fold(labels, groups, Fold(k=5, index=index), 0.2, 0)
        tested += parts == 2
        assert set(parts) == {0, 1, 2}
    assert (tested == 1).all()
