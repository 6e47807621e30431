"""Built-in encoders, one file a kind of modality, and the one table of them.

An encoder takes a tensor of the modality's spec, [batch, *shape], to float32 [batch, embedding]. Only operators that
export to one ONNX node each are used; adaptive pooling, which becomes some twenty, is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from mmedge.models.encoders import array, audio, image, sensor, tabular, text
from mmedge.recipe import Encoder, Model
from mmedge.spec import ModalitySpec

# {kind: (its spec, the encoder's sizes, the model's section) -> a fresh module}.
ENCODERS: dict[str, Callable[[Any, Encoder, Model], nn.Module]] = {
    "image": image.build,
    "audio": audio.build,
    "text": text.build,
    "tabular": tabular.build,
    "sensor": sensor.build,
    "array": array.build,
}


def encoder_of(spec: ModalitySpec, encoder: Encoder, model: Model) -> nn.Module:
    """The built-in encoder of a modality's kind, from its tensor to ``model.embedding`` features."""
    return ENCODERS[spec.kind](spec, encoder, model)
