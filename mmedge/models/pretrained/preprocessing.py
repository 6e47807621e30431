"""The preprocessing that a folder of Hugging Face brings along, as a spec of ours."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from mmedge import tokenizer
from mmedge.errors import UsageError, first_line
from mmedge.models.pretrained.brought import IMAGENET, Brought, changed, of_image, size_of
from mmedge.models.pretrained.folder import (
    IMAGES,
    TOKENIZER,
    config_of,
    folder_of,
    images_of,
    read,
    transformers_library,
)
from mmedge.preprocess import text
from mmedge.recipe import Pretrained
from mmedge.spec import AudioSpec, ImageSpec, ModalitySpec, TextSpec

# Texts of these were trained on with all of their padding attended to, filled up to the last position.
SEES_PADDING = ("siglip_text_model", "siglip2_text_model")
# Pictures of fewer pixels a side are cut out of larger ones by processors with a crop_pct (ConvNeXt's); others are stretched.
_CUT_BELOW = 384


def brought(encoder: Pretrained, spec: ModalitySpec) -> Brought:
    """The folder's own preprocessing. Raises UsageError for a text without a tokenizer.json."""
    folder = folder_of(encoder)
    if isinstance(spec, TextSpec):
        if not (folder / TOKENIZER).is_file():
            raise UsageError(
                f"the folder has no {TOKENIZER}",
                where=str(folder),
                todo="transformers writes one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
            )
        own = changed(spec, tokenizer_file=folder / TOKENIZER, fitted=None, tokens=None)
        return Brought(_filled(encoder, own))
    if isinstance(spec, ImageSpec):
        try:
            return _of_image(images_of(folder), _own_config_values(encoder), spec)
        except (TypeError, ValueError, ArithmeticError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
            raise UsageError(
                f"what the folder says of its pictures cannot be done: {why}",
                where=str(folder / IMAGES),
                todo="get the file again, or say it under teacher.preprocessing",
            ) from error
    note = "it takes the modality as the data's preprocessing gives it: see to it that it was trained so"
    return Brought(spec, (note,), _of_sound(read(folder / IMAGES), spec))


def _of_sound(said: dict[str, Any], spec: ModalitySpec) -> dict[str, Any]:
    """What a feature extractor's config says of the samples that it takes, by the keys of a sound's spec."""
    if not isinstance(spec, AudioSpec):
        return {}
    found = {"sample_rate": said.get("sampling_rate")}
    if spec.features == "waveform":  # of bands it is a mean and a deviation of its own data
        found["standardize"] = said.get("do_normalize")
    return {key: value for key, value in found.items() if value is not None}


def _filled(encoder: Pretrained, spec: ModalitySpec) -> ModalitySpec:
    """The spec of texts as long, and filled with what, a network was trained on that attends to padding too."""
    config = config_of(encoder)
    own: Any = config.get("text_config") or config
    kind = own.get("model_type") or f"{config['model_type']}_text_model"
    if kind not in SEES_PADDING or not isinstance(spec, TextSpec):
        return spec
    values = {name: value for name, value in own.items() if name != "model_type"}
    positions = transformers_library().AutoConfig.for_model(kind, **values).max_position_embeddings
    fitted = text.fit(spec, ())
    assert fitted.fitted is not None
    pad = text.pad_beside(folder_of(encoder) / TOKENIZER, tokenizer.opened(fitted.fitted, None))
    return changed(fitted, length=positions, pad=fitted.pad if pad is None else pad)


def _own_config_values(encoder: Pretrained) -> dict[str, Any]:
    values: Any = config_of(encoder)
    return values.get("vision_config") or values


def _of_image(said: dict[str, Any], config: dict[str, Any], spec: ImageSpec) -> Brought:
    """Of a processor's config. Its mean and std are of pixels times ``rescale_factor``, ours of pixels / 255."""
    assumed = []
    channels = 1 if config.get("num_channels") == 1 else 3
    size = size_of(said.get("crop_size") if said.get("do_center_crop") else said.get("size"))
    size = size or size_of(said.get("size")) or size_of(config.get("image_size"))
    if size is None:
        size = (224, 224)
        assumed.append("size 224 x 224")
    normalised = said.get("do_normalize") is not False
    mean, std = (said.get("image_mean"), said.get("image_std")) if normalised else ((0.0,), (1.0,))
    if mean is None or std is None:
        mean, std = IMAGENET[0][:channels], IMAGENET[1][:channels]
        assumed.append("ImageNet's mean and std")
    unit = 255 * said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 255.0
    mean, std = tuple(x / unit for x in mean), tuple(x / unit for x in std)
    told = f"no {IMAGES} says so: " if not said else ""
    notes = [f"{told}{each} assumed" for each in assumed]
    before = _before_the_cut(said, size)
    # It fills up with black, or cuts by the picture's aspect.
    if before < size[0] or (before > size[0] and size[0] != size[1]):
        notes.append(
            f"its processor makes pictures {before} high and cuts {size[0]} x {size[1]} out of the middle; here as much of a"
            " picture is seen as has that aspect"
        )
    share = size[0] / before if size[0] == size[1] <= before else 1.0
    own = of_image(spec, size, mean, std, channels=channels, center=_keeps_aspect(said, size), share=share)
    return Brought(own, tuple(notes))


def _keeps_aspect(said: dict[str, Any], size: tuple[int, int]) -> bool:
    """Whether a processor resizes to the shorter edge and cuts the middle out, where others stretch to height and width."""
    asked = said.get("size")
    if said.get("crop_pct"):
        return size[0] < _CUT_BELOW
    if isinstance(asked, dict) and "height" in asked:
        return False
    return bool(said.get("do_center_crop")) or "shortest_edge" in str(asked)


def _before_the_cut(said: dict[str, Any], size: tuple[int, int]) -> int:
    """The height that a processor resizes to before it cuts ``size`` out: that of ``size`` where it cuts nothing off."""
    before = size_of(said.get("size")) or size
    if share := said.get("crop_pct"):
        return int(before[0] / share) if size[0] < _CUT_BELOW else size[0]
    return before[0] if said.get("do_center_crop") else size[0]
