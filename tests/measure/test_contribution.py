"""Shapley values of modalities: those of a game worked out by hand, and what must hold of every model."""

import numpy as np
import pytest

from mmedge.measure.contribution import contributions, shapley
from tests.heads import samples


def test_the_values_of_a_game_are_those_worked_out_by_hand():
    # The glove game: 0 and 1 hold a left one, 2 the right one; a pair is worth 1 (values 1/6, 1/6, 4/6).
    worth = {(): 0, (0,): 0, (1,): 0, (2,): 0, (0, 1): 0, (0, 2): 1, (1, 2): 1, (0, 1, 2): 1}
    values = {frozenset(who): np.array([float(value)]) for who, value in worth.items()}
    assert shapley(values, 3)[0] == pytest.approx([1 / 6, 1 / 6, 4 / 6])


def test_a_modality_that_the_model_does_not_look_at_contributes_nothing_and_the_rest_adds_up():
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    evidence = np.eye(3)[targets] * 2 + rng.normal(size=(60, 3))
    inputs = {name: np.zeros((60, 1), np.float32) for name in ("seen", "heard", "ignored")}
    present = np.ones((60, 3), bool)
    present[:6, 1] = False  # not all modalities: left out
    test = samples("test", tuple(map(str, range(60))), inputs, present, targets, np.arange(60))
    rest = evidence[6:]

    def predict(mask):
        assert mask.shape == (54, 3) and (mask == mask[0]).all()
        return {"logits": rest * (0.5 * mask[0, 0] + 1.0 * mask[0, 1])}

    (found,) = contributions("student", test, predict)
    shares = {share.modality: share for share in found.modalities}
    assert found.n == 54 and abs(shares["ignored"].shapley) < 1e-12 and shares["ignored"].ablation == 0
    assert shares["heard"].shapley > shares["seen"].shapley > 0
    assert sum(share.shapley for share in found.modalities) == pytest.approx(found.whole - found.nothing)
    assert shares["heard"].shapley_ci95[0] < shares["heard"].shapley < shares["heard"].shapley_ci95[1]
    counts = np.bincount(targets[6:]) / 54
    assert found.nothing == pytest.approx((counts**2).sum())  # the share of the target's label
    of_label = [(targets[6:] == k).mean() * found.labels["abc"[k]]["heard"] for k in range(3)]
    assert sum(of_label) == pytest.approx(shares["heard"].shapley)


def test_one_modality_has_nothing_to_share():
    test = samples("test", ("a",), {"x": np.zeros((1, 1))}, np.ones((1, 1), bool), [0], np.arange(1))
    assert contributions("s", test, lambda mask: {"logits": np.zeros((1, 3))}) == []
