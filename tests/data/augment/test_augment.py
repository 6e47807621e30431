"""Augmentation: each change is a function of seed, view and row, and a seed gives the views that it gave in version 0.1."""

import hashlib

import numpy as np

from mmedge.data.augment import augmented
from mmedge.data.augment.chance import Chance
from mmedge.recipe import Augment

ROWS = np.arange(50)
SERIES = np.random.default_rng(0).normal(size=(50, 3, 10)).astype(np.float32)


def view(x, augment, index=ROWS, view=0):
    return augmented(x, index, augment, Chance(3, view, index, len(x)))


def test_a_shift_moves_columns_and_repeats_the_edge():
    shifted, offsets = view(SERIES, Augment(shift=2)), set()
    for row in ROWS:
        candidates = {offset: SERIES[row][..., np.clip(np.arange(10) - offset, 0, 9)] for offset in range(-2, 3)}
        (offset,) = [offset for offset, expected in candidates.items() if np.array_equal(expected, shifted[row])]
        offsets.add(offset)
    assert offsets == {-2, -1, 0, 1, 2}


def test_a_mask_hides_whole_columns_of_at_most_its_width():
    masked = view(SERIES, Augment(mask=3))
    hidden = (masked == 0).all(axis=1)
    assert hidden.sum(axis=1).max() == 3 and (hidden.sum(axis=1) == 0).any()
    np.testing.assert_array_equal(masked.transpose(0, 2, 1)[~hidden], SERIES.transpose(0, 2, 1)[~hidden])


def test_noise_has_its_deviation_and_is_a_rows_own():
    added = view(SERIES, Augment(noise=0.5)) - SERIES
    assert abs(added.std() - 0.5) < 0.05 and abs(added.mean()) < 0.05
    some = np.array([40, 3, 3, 17])
    np.testing.assert_array_equal(view(SERIES, Augment(noise=0.5), some) - SERIES[some], added[some])


def test_axes_that_a_tensor_does_not_have_are_left_alone():
    table, everything = SERIES[:, 0], Augment(shift=2, shift_rows=2, mask=3, mask_rows=3)
    np.testing.assert_array_equal(
        view(table, everything), view(table, everything.model_copy(update={"shift_rows": 0, "mask_rows": 0}))
    )


def test_a_seed_gives_the_views_that_version_0_1_drew():
    """An interrupted training goes on after an update, and a teacher's outputs that were kept stay those of its views."""
    maps = np.arange(50 * 2 * 6 * 8, dtype=np.float32).reshape(50, 2, 6, 8) + 1
    everything, digest = Augment(shift=3, shift_rows=2, mask=4, mask_rows=3), hashlib.sha256()
    for number in range(3):
        digest.update(view(maps, everything, view=number).tobytes())
    assert digest.hexdigest() == "a0cad60e3802fc15c2435a3e33d505aa846ea71fdb30e4dc62305aed7bcd669c"
    noisy = view(maps, Augment(noise=1.0), np.array([7, 21]), view=2) - maps[[7, 21]]
    np.testing.assert_allclose(noisy[:, 0, 0, :2], [[-0.919, -0.919], [-0.527, 1.882]], atol=1e-3)
