"""The section ``train.augment``: random changes of what a modality holds, of which kinds each is, and named sets of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from mmedge.errors import did_you_mean
from mmedge.frozen import Frozen
from mmedge.spec import AudioSpec, ImageSpec, ModalitySpec, PointsSpec, SensorSpec, VideoSpec

Preset = Literal["light", "standard", "strong"]
Share = Annotated[float, Field(ge=0, le=1)]


class Augment(Frozen):
    """Random changes of one modality, drawn anew for each view of a sample; or a preset's name alone."""

    preset: Preset | None = Field(
        None,
        description="A set of changes for the modality's kind, on top of which the other keys change what they name. None of"
        " them mirrors, since letters, digits and a side of the body are others in a mirror: add flip where they are not.",
    )
    shift: int = Field(0, ge=0, description="Largest shift along the last axis, in steps: columns, frames, samples.")
    shift_rows: int = Field(0, ge=0, description="Largest shift along the last axis but one: rows, bands.")
    mask: int = Field(0, ge=0, description="Longest run along the last axis that is blanked; of a text, tokens.")
    mask_rows: int = Field(0, ge=0, description="Longest run along the last axis but one that is blanked.")
    masks: int = Field(1, ge=1, le=16, description="How many such runs of each; SpecAugment's own policy has two.")
    noise: float = Field(0.0, ge=0, description="Standard deviation of added noise, in normalised units.")
    crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Of an image: least share of its area that a random part of it has, of an aspect of 3:4 to 4:3, which is"
        " then scaled to the whole. ImageNet's trainings take 0.08; 1 leaves it.",
    )
    flip: Share = Field(0.0, description="Of an image: share of views that are mirrored, left for right.")
    rotate: float = Field(0.0, ge=0, le=180, description="Of an image: largest turn, in degrees.")
    shear: float = Field(0.0, ge=0, le=60, description="Of an image: largest shear along its rows, in degrees.")
    zoom: float = Field(0.0, ge=0, lt=1, description="Of an image: largest part by which it is larger or smaller.")
    brightness: float = Field(
        0.0, ge=0, le=1, description="Of an image: largest part by which it is lighter or darker."
    )
    contrast: float = Field(0.0, ge=0, le=1, description="Of an image: largest part by which its contrast changes.")
    saturation: float = Field(0.0, ge=0, le=1, description="Of an image: largest part by which its colours do.")
    hue: float = Field(
        0.0, ge=0, le=0.5, description="Of an image: largest turn of its colours, in parts of the circle."
    )
    grayscale: Share = Field(0.0, description="Of an image of three channels: share of views without colours.")
    blur: float = Field(
        0.0, ge=0, le=16, description="Of an image: largest deviation of a Gaussian blur, in pixels; half of the views."
    )
    erase: Share = Field(
        0.0,
        description="Of an image: share of views of which a box of 2 to 33 % of the area is blanked (random erasing).",
    )
    trivial: Share = Field(
        0.0,
        description="Of an image: share of views that get one of TrivialAugment's fourteen changes (turned by up to 135"
        " degrees, sheared, moved, solarized, posterized, sharpened, lighter, equalized ...) at any strength.",
    )
    pitch: float = Field(0.0, ge=0, le=12, description="Of a sound: largest change of its pitch, in semitones.")
    speed: float = Field(
        0.0, ge=0, le=0.5, description="Of a sound: largest part by which it is faster and higher, or slower and lower."
    )
    room: Share = Field(0.0, description="Of a sound: share of views that are heard in a room.")
    room_folder: Path | None = Field(
        None, description="For room: a folder of sounds that are impulse responses; simulated rooms where null."
    )
    gain: float = Field(0.0, ge=0, le=60, description="Of a sound: largest change of its level, in decibels.")
    snr: tuple[float, float] | None = Field(
        None, description="Of a sound: noise is added, at a ratio of signal to noise between these two, in decibels."
    )
    noise_folder: Path | None = Field(
        None, description="For snr: a folder of sounds that are the noise; white noise where null."
    )
    token_dropout: float = Field(0.0, ge=0, lt=1, description="Of a text: share of its tokens that are left out.")
    swap: Share = Field(0.0, description="Of a text: share of its tokens that change places with the next one.")
    scaling: float = Field(0.0, ge=0, le=1, description="Of a series: deviation of a factor for each channel.")
    rotate_axes: float = Field(
        0.0,
        ge=0,
        le=180,
        description="Of a series: largest turn in space, in degrees. Its channels come in threes, x, y and z of a device that"
        " is worn another way, which are all turned alike.",
    )
    time_warp: float = Field(
        0.0, ge=0, lt=1, description="Of a series: largest part by which time runs faster or slower."
    )
    channel_drop: float = Field(0.0, ge=0, lt=1, description="Of a series: share of its channels that are blanked.")
    column_drop: float = Field(0.0, ge=0, lt=1, description="Of a table: share of its columns that are blanked.")
    turn: float = Field(
        0.0, ge=0, le=180, description="Of a cloud: largest turn about its vertical axis ('up'), in degrees."
    )
    jitter: float = Field(
        0.0,
        ge=0,
        description="Of a cloud: deviation of noise of each point's place, in radii or, unscaled, in its own unit.",
    )
    stretch: float = Field(0.0, ge=0, lt=1, description="Of a cloud: largest part by which it is larger or smaller.")
    point_dropout: float = Field(
        0.0, ge=0, lt=1, description="Of a cloud: largest share of its points that are left out, as padding is."
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_by_its_name(cls, given: Any) -> Any:
        return {"preset": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _agrees(self) -> Augment:
        if self.snr and self.snr[0] > self.snr[1]:
            raise ValueError(f"'snr' goes from the loudest noise to the faintest: [{self.snr[1]:g}, {self.snr[0]:g}]")
        if self.noise_folder and not self.snr:
            raise ValueError("'noise_folder' needs 'snr': how loud the noise is, [5, 20] decibels say")
        if self.room_folder and not self.room:
            raise ValueError("'room_folder' needs 'room': the share of views that are heard in one, 0.3 say")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        drawn = handler(schema)
        return {"anyOf": [drawn, {"enum": ["light", "standard", "strong"], "type": "string"}]}

    @property
    def folders(self) -> dict[str, Path]:
        """{key: the folder of sounds that it names}."""
        named = {"noise_folder": self.noise_folder, "room_folder": self.room_folder}
        return {key: folder for key, folder in named.items() if folder}

    @property
    def asked(self) -> set[str]:
        """The keys of the changes that it makes, without the preset's."""
        plain = Augment()
        return {key for key in type(self).model_fields if key != "preset" and getattr(self, key) != getattr(plain, key)}

    def of(self, spec: ModalitySpec) -> Augment:
        """The same without a preset: what that stands for in a modality of this kind, and what was given beside it."""
        if self.preset is None:
            return self
        given = self.model_dump(exclude_unset=True, exclude={"preset"})
        return Augment.model_validate({**_preset(self.preset, spec), **given})


class Mix(Frozen):
    """Each sample mixed with another one of the training split; its labels count by their parts, and a teacher sees the mix."""

    kind: Literal["mixup", "cutmix"] = Field(
        "mixup",
        description="mixup: a weighted sum of both; cutmix: a box of one, of series a run, taken from the other.",
    )
    alpha: float = Field(
        0.2,
        gt=0,
        le=100,
        description="The parts are drawn from Beta(alpha, alpha): 1 is even, below it one of both prevails.",
    )
    share: Share = Field(1.0, description="Share of the views that are mixed.")


# Values of changes, by their keys in ``Augment``.
Values = dict[str, float | tuple[int, int]]

_PLANE = ("shift", "shift_rows", "mask", "mask_rows", "masks", "noise")
_COLOURS = ("saturation", "hue", "grayscale")
_IMAGE = ("crop", "flip", "rotate", "shear", "zoom", "brightness", "contrast", *_COLOURS, "blur", "erase", "trivial")
_LEVEL = ("gain", "snr", "noise_folder")
_SOUND = ("pitch", "speed", "room", "room_folder")
_SERIES = ("scaling", "rotate_axes", "time_warp", "channel_drop")
_WORDS = ("mask", "masks", "token_dropout", "swap")
_CLOUD = ("turn", "jitter", "stretch", "point_dropout")


def _changes_of_image(spec: ImageSpec | VideoSpec) -> tuple[str, ...]:
    return (*_PLANE, *(key for key in _IMAGE if spec.channels == 3 or key not in _COLOURS))


def _changes_of_sound(spec: AudioSpec) -> tuple[str, ...]:
    """Coefficients (mfcc) and standardized waveforms hold no level."""
    leveled = spec.features != "mfcc" and not spec.standardize
    return (*_PLANE, *(_LEVEL if leveled else ()), *(_SOUND if spec.features != "mfcc" else ()))


def _changes_of_series(spec: SensorSpec) -> tuple[str, ...]:
    return (*_PLANE, *(key for key in _SERIES if key != "rotate_axes" or spec.channels % 3 == 0))


def _preset_of_image(strength: int, spec: ModalitySpec) -> Values:
    colour = (0.1, 0.3, 0.4)[strength]
    found: Values = {"crop": (0.7, 0.35, 0.08)[strength], "brightness": colour, "contrast": colour}
    found |= {"saturation": colour, "hue": (0.0, 0.02, 0.1)[strength], "grayscale": (0.0, 0.0, 0.1)[strength]}
    return found | {"rotate": (0.0, 0.0, 10.0)[strength], "erase": (0.0, 0.1, 0.25)[strength]}


def _preset_of_sound(strength: int, spec: ModalitySpec) -> Values:
    """Lengths of runs are parts of the modality's own."""
    part = (40, 16, 8)[strength]
    found: Values = {"gain": (3.0, 6.0, 10.0)[strength], "snr": ((20, 40), (10, 30), (3, 25))[strength]}
    found |= {"speed": (0.0, 0.0, 0.1)[strength], "room": (0.0, 0.0, 0.2)[strength]}
    found |= {"shift": spec.shape[-1] // part, "mask": spec.shape[-1] // part, "masks": 1 + strength // 2}
    return found | ({"mask_rows": spec.shape[-2] // part} if len(spec.shape) > 1 else {})


def _preset_of_series(strength: int, spec: ModalitySpec) -> Values:
    found: Values = {"noise": (0.02, 0.05, 0.1)[strength], "scaling": (0.05, 0.1, 0.2)[strength]}
    found |= {"time_warp": (0.0, 0.1, 0.2)[strength], "channel_drop": (0.0, 0.0, 0.1)[strength]}
    return found | {"shift": spec.shape[-1] // (40, 16, 8)[strength]}


def _preset_of_words(strength: int, spec: ModalitySpec) -> Values:
    return {"token_dropout": (0.05, 0.1, 0.2)[strength], "swap": (0.0, 0.05, 0.1)[strength]}


def _preset_of_table(strength: int, spec: ModalitySpec) -> Values:
    return {"noise": (0.0, 0.02, 0.05)[strength], "column_drop": (0.05, 0.1, 0.2)[strength]}


def _preset_of_array(strength: int, spec: ModalitySpec) -> Values:
    return {"noise": (0.02, 0.05, 0.1)[strength]} if spec.dtype == "float32" else _preset_of_words(strength, spec)


def _preset_of_cloud(strength: int, spec: ModalitySpec) -> Values:
    """Of a scaled cloud as in Qi et al. 2017; how far one in metres may be jittered is not known."""
    found: Values = {"turn": (10.0, 45.0, 180.0)[strength], "stretch": (0.05, 0.1, 0.2)[strength]}
    scaled = isinstance(spec, PointsSpec) and spec.scale == "sphere"
    found |= {"jitter": (0.005, 0.01, 0.02)[strength]} if scaled else {}
    return found | {"point_dropout": (0.1, 0.3, 0.6)[strength]}


@dataclass(frozen=True)
class _Kind:
    """``word``: what a modality of the kind is called; ``changes``: the keys that it has; ``preset``: what strengths 0 to 2 are."""

    word: str
    changes: Callable[[Any], tuple[str, ...]]
    preset: Callable[[int, ModalitySpec], Values]


_KINDS = {
    "image": _Kind("an image of so many channels", _changes_of_image, _preset_of_image),
    "audio": _Kind("a sound of these features", _changes_of_sound, _preset_of_sound),
    "text": _Kind("a text or ids", lambda spec: _WORDS, _preset_of_words),
    "tabular": _Kind("a table", lambda spec: (*_PLANE, "column_drop"), _preset_of_table),
    "sensor": _Kind("a series of so many channels", _changes_of_series, _preset_of_series),
    "array": _Kind("an array", lambda spec: _PLANE if spec.dtype == "float32" else _WORDS, _preset_of_array),
    "points": _Kind("a cloud", lambda spec: _CLOUD, _preset_of_cloud),
    "video": _Kind("a video of so many channels", _changes_of_image, _preset_of_image),
}


def changes_of(spec: ModalitySpec) -> tuple[str, ...]:
    """The keys of ``Augment`` that a modality has."""
    return _KINDS[spec.kind].changes(spec)


def faults_of(augment: Mapping[str, Augment], modalities: Mapping[str, ModalitySpec]) -> list[str]:
    """Changes that a modality does not have, each in a sentence that begins with its key."""
    faults = []
    for name, given in augment.items():
        if name not in modalities:
            continue
        known = changes_of(modalities[name])
        for key in sorted(given.asked - set(known)):
            what = "a text or ids" if modalities[name].dtype != "float32" else f"{_KINDS[modalities[name].kind].word}"
            faults.append(
                f"{name}: of {what} there is no {key!r}{did_you_mean(key, known)}; what can change is {', '.join(known)}"
            )
    return faults


def _preset(name: Preset, spec: ModalitySpec) -> Values:
    """What a preset stands for."""
    known = changes_of(spec)
    found = _KINDS[spec.kind].preset(("light", "standard", "strong").index(name), spec)
    return {key: value for key, value in found.items() if key in known}
