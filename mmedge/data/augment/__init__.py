"""Random changes of one modality's samples, one file a kind, and the one table of them.

Each is a pure function of (seed, view, row): a row's view depends neither on its batch nor on its epoch's order, so that
teacher and student see the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mmedge.data.augment import (
    affine,
    blur,
    channels,
    cloud,
    colour,
    columns,
    crop,
    erase,
    flip,
    gain,
    mask,
    noise,
    pitch,
    room,
    rotation,
    scaling,
    shift,
    snr,
    speed,
    swap,
    tokens,
    trivial,
    warp,
)
from mmedge.data.augment.chance import Chance
from mmedge.data.store.rows import Column, Rows
from mmedge.recipe import Augment
from mmedge.spec import ArraySpec, ModalitySpec, VideoSpec


@dataclass(frozen=True)
class Change:
    """``keys``: those of the recipe's section that ask for it. ``apply``: (samples [batch, *shape], the section, what is
    drawn for these rows, the spec) -> the same shape; it may write to what it is given. ``raw``: the samples are as they
    lie on the disk, or raw features in float32, and not normalised yet. ``blanks``: all that it does is to blank some of
    them, which is cheap."""

    keys: tuple[str, ...]
    apply: Callable[[np.ndarray, Augment, Chance, ModalitySpec], np.ndarray]
    raw: bool = True
    blanks: bool = False


# In this order.
CHANGES: tuple[Change, ...] = (
    Change(("crop",), crop.change),
    Change(("flip",), flip.change),
    Change(("rotate", "shear", "zoom"), affine.change),
    Change(("brightness", "contrast", "saturation", "hue", "grayscale"), colour.change),
    Change(("blur",), blur.change),
    Change(("trivial",), trivial.change),
    Change(("pitch",), pitch.change),
    Change(("speed",), speed.change),
    Change(("room",), room.change),
    Change(("snr",), snr.change),
    Change(("gain",), gain.change),
    Change(("token_dropout",), tokens.change),
    Change(("swap",), swap.change),
    Change(("time_warp",), warp.change),
    Change(("scaling",), scaling.change),
    Change(("rotate_axes",), rotation.change),
    Change(("turn", "jitter", "stretch", "point_dropout"), cloud.change),
    Change(("shift", "shift_rows"), shift.change, raw=False),
    Change(("mask", "mask_rows"), mask.change, raw=False, blanks=True),
    Change(("noise",), noise.change, raw=False),
    Change(("erase",), erase.change, raw=False, blanks=True),
    Change(("channel_drop",), channels.change, raw=False, blanks=True),
    Change(("column_drop",), columns.change, raw=False, blanks=True),
)


def resolved(augment: Mapping[str, Augment], modalities: Mapping[str, ModalitySpec]) -> dict[str, Augment]:
    """What each modality is changed by, presets written out."""
    return {name: each.of(modalities[name]) for name, each in augment.items() if name in modalities}


def augmented(x: Column, index: np.ndarray, augment: Augment, chance: Chance) -> np.ndarray:
    """[batch, *shape]: the rows ``index`` as one view has them, normalised. ``chance``: what is drawn for them.

    Changes of raw samples are made of what is in memory, too, as it is.
    """
    return finished(x, begun(x, index, augment, chance), index, augment, chance)


def begun(x: Column, index: np.ndarray, augment: Augment, chance: Chance) -> np.ndarray:
    """[batch, *shape], a new array: as far as the changes are work. What is left to ``finished`` is to normalise, where
    that can wait, and to blank: bytes stay bytes on their way from process to process."""
    steps, work = _steps(x, augment)
    found = x.kept(index) if isinstance(x, Rows) and None in steps else x[index]
    return _taken(steps[:work], x, found, index, augment, chance)


def finished(x: Column, found: np.ndarray, index: np.ndarray, augment: Augment, chance: Chance) -> np.ndarray:
    """``augmented`` of what ``begun`` gave, which it may be itself."""
    steps, work = _steps(x, augment)
    return _taken(steps[work:], x, found, index, augment, chance)


def _steps(x: Column, augment: Augment) -> tuple[list[Change | None], int]:
    """The changes in their order, None where samples are normalised; and how many of these steps are work."""
    asked = augment.asked
    steps: list[Change | None] = [change for change in CHANGES if asked.intersection(change.keys)]
    raw = sum(change is not None and change.raw for change in steps)
    if isinstance(x, Rows) and (raw or not x.held):
        steps.insert(raw, None)
    work = [number for number, step in enumerate(steps, 1) if step is not None and not step.blanks]
    return steps, max(work, default=0)


def _taken(
    steps: list[Change | None], x: Column, found: np.ndarray, index: np.ndarray, augment: Augment, chance: Chance
) -> np.ndarray:
    spec = x.spec if isinstance(x, Rows) else ArraySpec(kind="array", array_shape=x.shape[1:])
    for step in steps:
        if step is not None:
            found = _applied(step, found, augment, chance, spec)
        elif isinstance(x, Rows):
            found = x.normalised(found, index)
    return found


def _applied(change: Change, x: np.ndarray, augment: Augment, chance: Chance, spec: ModalitySpec) -> np.ndarray:
    """A change of samples; of a video each frame is changed as an image, all of a video's alike."""
    if not isinstance(spec, VideoSpec):
        return change.apply(x, augment, chance, spec)
    return np.stack([change.apply(x[:, place], augment, chance, spec.frame) for place in range(x.shape[1])], axis=1)
