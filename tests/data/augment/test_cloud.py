"""Views of clouds: turned about the vertical axis, stretched, jittered and thinned; padding stays padding."""

import numpy as np
import pytest

from mmedge.data.augment import cloud
from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment
from mmedge.recipe.augment import faults_of
from mmedge.spec import PointsSpec, VideoSpec

SPEC = PointsSpec(kind="points", points=40, extras=("intensity",))


def clouds(rows=6, there=30):
    x = np.random.default_rng(0).normal(size=(rows, 5, 40)).astype(np.float32)
    x[:, -1] = np.arange(40) < there
    return x * x[:, -1:]


def changed(x, spec=SPEC, **augment):
    return cloud.change(x.copy(), Augment(**augment), Chance(1, 0, np.arange(len(x)), len(x)), spec)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_a_turn_keeps_heights_and_distances(up):
    x, axis = clouds(), "xyz".index(up)
    found = changed(x, SPEC.model_copy(update={"up": up}), turn=180)
    assert found[:, axis] == pytest.approx(x[:, axis], abs=1e-6) and not np.allclose(found[:, :3], x[:, :3])
    assert np.linalg.norm(found[:, :3], axis=1) == pytest.approx(np.linalg.norm(x[:, :3], axis=1), abs=1e-5)
    assert np.array_equal(found[:, 3:], x[:, 3:])


def test_a_stretch_is_one_factor_a_cloud():
    x = clouds()
    factors = changed(x, stretch=0.2)[:, :3, :30] / x[:, :3, :30]
    assert factors == pytest.approx(np.broadcast_to(factors[:, :1, :1], factors.shape), rel=1e-4)
    assert factors.min() >= 0.8 and factors.max() <= 1.2 and len(np.unique(factors[:, 0, 0])) == len(x)


def test_padding_and_what_is_left_out_are_zero_behind_the_mask():
    x = clouds()
    found = changed(x, jitter=0.1, point_dropout=0.9)
    assert not found[:, :, 30:].any() and not (found[:, :-1] * (found[:, -1:] == 0)).any()
    left = found[:, -1].sum(axis=1)
    assert (left >= 1).all() and (left < 30).any()
    kept = found[:, -1:] > 0
    assert np.abs((found - x)[:, :3] * kept).max() < 0.6 and np.array_equal((found * kept)[:, 3], (x * kept)[:, 3])


def test_a_kind_s_changes_and_presets_are_its_own():
    assert "there is no 'flip'" in faults_of({"a": Augment(flip=0.5)}, {"a": SPEC})[0]
    strong = Augment(preset="strong").of(SPEC)
    assert strong.asked == {"turn", "jitter", "stretch", "point_dropout"}
    metres = SPEC.model_copy(update={"scale": "none"})
    assert "jitter" not in Augment(preset="strong").of(metres).asked
    film = VideoSpec(kind="video", frames=2, height=8, width=8)
    assert "crop" in Augment(preset="light").of(film).asked
