"""Built-in encoders, one file each, and the one table of them: by the modality's kind, and by the recipe's ``kind`` of encoder.

An encoder takes a tensor of the modality's spec, [batch, *shape], to float32 [batch, embedding]. Only operators that
export to one ONNX node each are used; adaptive pooling, which becomes some twenty, is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from mmedge.errors import UsageError, did_you_mean
from mmedge.models.encoders import (
    array,
    audio,
    conformer,
    convnext,
    image,
    mobilenet,
    points,
    recurrent,
    resnet,
    sensor,
    tabular,
    text,
    transformer,
    video,
)
from mmedge.models.pretrained import pretrained_encoder
from mmedge.recipe import AnyEncoder, Encoder, Model, Pretrained
from mmedge.spec import ModalitySpec

# (its spec, the encoder's sizes, the model's section) -> a fresh module.
Build = Callable[[Any, Encoder, Model], nn.Module]

_MAPS: dict[str, Build] = {
    "resnet": resnet.build,
    "mobilenet": mobilenet.build,
    "convnext": convnext.build,
    "transformer": transformer.OfMaps,
}
# The first of each is what a recipe gets that says nothing.
ENCODERS: dict[str, dict[str, Build]] = {
    "image": {"conv": image.build, **_MAPS},
    "audio": {"conv": audio.build, "gru": recurrent.OfSounds, "conformer": conformer.OfSounds, **_MAPS},
    "text": {"conv": text.build, "gru": recurrent.OfTexts, "transformer": transformer.OfTexts},
    "tabular": {"mlp": tabular.build, "transformer": transformer.OfColumns},
    "sensor": {"conv": sensor.build, "gru": recurrent.OfSeries, "transformer": transformer.OfSeries},
    "array": {"plain": array.build, **_MAPS},
    "points": {"pointnet": points.build},
    "video": {kind: video.of_frames(build) for kind, build in ({"conv": image.build} | _MAPS).items()},
}


def encoder_of(name: str, spec: ModalitySpec, encoder: AnyEncoder, model: Model, *, fresh: bool = False) -> nn.Module:
    """The encoder of the modality ``name``, from its tensor to ``model.embedding`` features.

    ``fresh``: of one that has learnt elsewhere, without its weights, which are loaded later. Raises UsageError for a kind
    that its modality does not have.
    """
    if isinstance(encoder, Pretrained):
        return pretrained_encoder(name, spec, encoder, model, fresh=fresh)
    kinds = ENCODERS[spec.kind]
    kind = encoder.kind or next(iter(kinds))
    if kind not in kinds:
        raise UsageError(
            f"encoders.{name}.kind: no {kind!r} of {spec.kind}{did_you_mean(kind, kinds)}",
            todo=f"there are {', '.join(kinds)}",
        )
    if kinds[kind] is _MAPS.get(kind) and len(spec.shape) != 3:
        raise UsageError(
            f"encoders.{name}.kind: a {kind} takes maps [channels, height, width], and {name} is {list(spec.shape)}",
            todo=f"leave kind out, for {next(iter(kinds))}",
        )
    return kinds[kind](spec, encoder, model)
