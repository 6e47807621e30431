"""What a teacher of another preprocessing is shown: the same draw, in its own sizes."""

import numpy as np
import pytest

from mmedge.recipe import Augment
from mmedge.spec import AudioSpec, ImageSpec
from mmedge.training.loop.batches import Look, view_of
from mmedge.training.teaching.taught import scaled
from tests.heads import samples as made_samples

OURS = AudioSpec(kind="audio", mels=16, frames=24, hop_ms=32)
FINER = AudioSpec(kind="audio", mels=32, frames=60, hop_ms=16)


def test_shifts_and_masks_are_scaled_to_the_teachers_sizes_a_sounds_time_by_its_milliseconds():
    augment = Augment(shift=2, shift_rows=1, mask=3, mask_rows=2, noise=0.1)
    assert scaled(augment, OURS, FINER) == Augment(shift=4, shift_rows=2, mask=6, mask_rows=4, noise=0.1)
    assert scaled(augment, OURS, OURS) == augment
    small, large = (ImageSpec(kind="image", height=28, width=28), ImageSpec(kind="image", height=56, width=84))
    assert scaled(augment, small, large) == Augment(shift=6, shift_rows=2, mask=9, mask_rows=4, noise=0.1)


@pytest.mark.parametrize("view", [0, 1])
def test_teacher_and_student_see_the_same_shift_to_within_a_step_of_the_finer_one(view):
    n, augment = 64, Augment(shift=4)
    places = [np.tile(np.arange(spec.frames, dtype=np.float32), (n, 1, spec.bands, 1)) for spec in (OURS, FINER)]
    shifts = []
    for spec, x in zip((OURS, FINER), places):
        data = made_samples(
            "train", tuple(map(str, range(n))), {"audio": x}, np.ones((n, 1), bool), np.zeros(n, np.int64), np.arange(n)
        )
        seen = view_of(data, np.arange(n), Look({"audio": scaled(augment, OURS, spec)}, 3, view))["audio"]
        shifts.append((spec.frames // 2 - seen[:, 0, 0, spec.frames // 2].numpy()) * spec.hop_ms)
    assert len(set(shifts[0])) > 5 and np.abs(shifts[0] - shifts[1]).max() <= OURS.hop_ms
