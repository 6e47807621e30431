"""What encoders share: stages of convolutions, their norms, and a linear layer over the mean of a map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmedge.errors import UsageError
from mmedge.recipe import Encoder, Model
from mmedge.spec import AudioSpec


def stages(
    dims: int, channels: int, widths: Sequence[int], depth: int, *, kernel: int, stride: int, norm: str
) -> nn.Sequential:
    """Convolutions over ``dims`` axes, ``depth`` a width, each with a norm and ReLU; the first of a width strides."""
    convolution = {1: nn.Conv1d, 2: nn.Conv2d}[dims]
    layers: list[nn.Module] = []
    for width in widths:
        for index in range(depth):
            step = stride if index == 0 else 1
            layers += [convolution(channels, width, kernel, step, kernel // 2, bias=False)]
            layers += [normed(dims, width, norm), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def normed(dims: int, width: int, norm: str) -> nn.Module:
    """A norm of ``width`` channels: batch, or group, of four channels each (Wu & He 2018) where the width allows it."""
    if norm == "batch":
        return {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[dims](width)
    return nn.GroupNorm(width // 4 if width % 4 == 0 else 1, width)


def over_frames(spec: AudioSpec, encoder: Encoder, model: Model) -> nn.Sequential:
    """Two convolutions over a spectrogram's frames, each halving them: [batch, bands, frames] -> [batch, the last width, frames / 4].

    Raises UsageError for a waveform.
    """
    if len(spec.shape) != 3:
        raise UsageError(
            f"a {encoder.kind} of sounds reads bands over frames, and this is a waveform",
            todo="leave features out, or kind, for conv",
        )
    widths = (encoder.widths[0], encoder.widths[-1])
    return stages(1, spec.shape[1], widths, 1, kernel=5, stride=2, norm=model.norm)


def over_map(features: nn.Module, width: int, model: Model) -> nn.Module:
    """``features``, which end in maps of ``width`` channels, and a linear layer over their means."""
    return OverMap(features, nn.Sequential(nn.Dropout(model.dropout), nn.Linear(width, model.embedding), nn.ReLU()))


class OverMap(nn.Module):
    """A linear layer over the means of maps. ``forward``: float32 [batch, channels, height, width] -> [batch, embedding].

    Not ``pooled``: over each place, [batch, places, embedding], for a fusion of tokens.
    """

    def __init__(self, features: nn.Module, project: nn.Module) -> None:
        super().__init__()
        self.features, self.project, self.pooled = features, project, True

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        return self.project(found.mean(dim=(2, 3)) if self.pooled else found.flatten(2).transpose(1, 2))
