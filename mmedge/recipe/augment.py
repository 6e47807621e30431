"""The section ``train.augment``: random changes of what a modality holds, of which kinds each is, and named sets of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from mmedge.errors import did_you_mean
from mmedge.frozen import Frozen
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, ModalitySpec, SensorSpec, TabularSpec, TextSpec

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


_PLANE = ("shift", "shift_rows", "mask", "mask_rows", "masks", "noise")
_COLOURS = ("saturation", "hue", "grayscale")
_IMAGE = ("crop", "flip", "rotate", "shear", "zoom", "brightness", "contrast", *_COLOURS, "blur", "erase", "trivial")
_LEVEL = ("gain", "snr", "noise_folder")
_SOUND = ("pitch", "speed", "room", "room_folder")
_SERIES = ("scaling", "rotate_axes", "time_warp", "channel_drop")


def changes_of(spec: ModalitySpec) -> tuple[str, ...]:
    """The keys of ``Augment`` that a modality has. Coefficients (mfcc) and standardized waveforms hold no level."""
    match spec:
        case ImageSpec():
            return (*_PLANE, *(key for key in _IMAGE if spec.channels == 3 or key not in _COLOURS))
        case AudioSpec():
            leveled = spec.features != "mfcc" and not spec.standardize
            return (*_PLANE, *(_LEVEL if leveled else ()), *(_SOUND if spec.features != "mfcc" else ()))
        case SensorSpec():
            return (*_PLANE, *(key for key in _SERIES if key != "rotate_axes" or spec.channels % 3 == 0))
        case TabularSpec():
            return (*_PLANE, "column_drop")
        case TextSpec():
            return ("mask", "masks", "token_dropout", "swap")
        case ArraySpec():
            return _PLANE if spec.dtype == "float32" else ("mask", "masks", "token_dropout", "swap")


def faults_of(augment: Mapping[str, Augment], modalities: Mapping[str, ModalitySpec]) -> list[str]:
    """Changes that a modality does not have, each in a sentence that begins with its key."""
    faults = []
    for name, given in augment.items():
        if name not in modalities:
            continue
        known = changes_of(modalities[name])
        for key in sorted(given.asked - set(known)):
            what = "a text or ids" if modalities[name].dtype != "float32" else f"{_WORDS[modalities[name].kind]}"
            faults.append(
                f"{name}: of {what} there is no {key!r}{did_you_mean(key, known)}; what can change is {', '.join(known)}"
            )
    return faults


_WORDS = {
    "image": "an image of so many channels",
    "audio": "a sound of these features",
    "sensor": "a series of so many channels",
    "tabular": "a table",
    "array": "an array",
}


def _preset(name: Preset, spec: ModalitySpec) -> dict[str, Any]:
    """What a preset stands for; lengths of runs are parts of the modality's own."""
    strength = ("light", "standard", "strong").index(name)
    known = changes_of(spec)
    match spec:
        case ImageSpec():
            colour = (0.1, 0.3, 0.4)[strength]
            found: dict[str, Any] = {"crop": (0.7, 0.35, 0.08)[strength], "brightness": colour, "contrast": colour}
            found |= {"saturation": colour, "hue": (0.0, 0.02, 0.1)[strength], "grayscale": (0.0, 0.0, 0.1)[strength]}
            found |= {"rotate": (0.0, 0.0, 10.0)[strength], "erase": (0.0, 0.1, 0.25)[strength]}
        case AudioSpec():
            part = (40, 16, 8)[strength]
            found = {"gain": (3.0, 6.0, 10.0)[strength], "snr": ((20, 40), (10, 30), (3, 25))[strength]}
            found |= {"speed": (0.0, 0.0, 0.1)[strength], "room": (0.0, 0.0, 0.2)[strength]}
            found |= {"shift": spec.shape[-1] // part, "mask": spec.shape[-1] // part, "masks": 1 + strength // 2}
            found |= {"mask_rows": spec.shape[-2] // part} if len(spec.shape) > 1 else {}
        case SensorSpec():
            found = {"noise": (0.02, 0.05, 0.1)[strength], "scaling": (0.05, 0.1, 0.2)[strength]}
            found |= {"time_warp": (0.0, 0.1, 0.2)[strength], "channel_drop": (0.0, 0.0, 0.1)[strength]}
            found |= {"shift": spec.length // (40, 16, 8)[strength]}
        case TabularSpec():
            found = {"noise": (0.0, 0.02, 0.05)[strength], "column_drop": (0.05, 0.1, 0.2)[strength]}
        case _ if spec.dtype != "float32":
            found = {"token_dropout": (0.05, 0.1, 0.2)[strength], "swap": (0.0, 0.05, 0.1)[strength]}
        case _:
            found = {"noise": (0.02, 0.05, 0.1)[strength]}
    return {key: value for key, value in found.items() if key in known}
