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


def test_a_class_of_few_rows_goes_where_most_of_it_is_due():
    # One row: .7 of it is due to the second part. Two: then .5 * 2 is due to the second and .3 * 2 to the third.
    assert by_ratio(np.array(["a"]), None, [0.15, 0.7, 0.15], 0).tolist() == [1]
    assert sorted(by_ratio(np.array(["a", "a"]), None, [0.2, 0.5, 0.3], 0)) == [1, 2]


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


def test_whole_groups_bring_every_class_to_every_split_where_they_can():
    """Ten people say two words each, some rarely: a draw by size alone left a class of 192 with one sample in the test split."""
    rng = np.random.default_rng(0)
    people = [
        (f"p{number}", word, count) for number in range(20) for word, count in (("yes", 12), (f"w{number % 4}", 10))
    ]
    groups = np.repeat([who for who, _, _ in people], [count for *_, count in people])
    labels = np.repeat([word for _, word, _ in people], [count for *_, count in people])
    order = rng.permutation(len(groups))
    groups, labels = groups[order], labels[order]
    for seed in range(10):
        parts = by_ratio(labels, groups, [0.6, 0.2, 0.2], seed)
        for label in np.unique(labels):
            np.testing.assert_allclose(
                np.bincount(parts[labels == label], minlength=3) / (labels == label).sum(), [0.6, 0.2, 0.2], atol=0.011
            )


def test_groups_of_very_different_sizes_come_near_their_shares():
    sizes = [200, 100, 60, 40, 30, 20, 15, 10, 10, 5, 5, 5]
    groups = np.repeat([f"g{number}" for number in range(len(sizes))], sizes)
    labels = np.array(["a", "b"] * (len(groups) // 2))
    for seed in range(5):
        np.testing.assert_allclose(np.bincount(by_ratio(labels, groups, SHARES, seed)) / len(groups), SHARES, atol=0.03)


def test_another_seed_gives_other_groups():
    groups = np.repeat([f"g{number}" for number in range(40)], 5)
    labels = np.array(["a", "b"] * 100)
    assert (by_ratio(labels, groups, SHARES, 0) != by_ratio(labels, groups, SHARES, 1)).any()


def test_ten_thousand_groups_are_dealt_in_seconds():
    import time

    groups = np.repeat([f"g{number}" for number in range(10_000)], 2)
    began = time.process_time()
    by_ratio(np.array(["a", "b"] * 10_000), groups, SHARES, 0)
    assert time.process_time() - began < 10
