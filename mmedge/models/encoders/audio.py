"""Encoders of sounds: bands over frames are a picture of one channel; raw samples meet a bank of filters first."""

from __future__ import annotations

from torch import Tensor, nn

from mmedge.models.encoders import image
from mmedge.models.encoders.sensor import SeriesEncoder
from mmedge.models.encoders.stages import stages
from mmedge.recipe import Encoder, Model
from mmedge.spec import AudioSpec


def build(spec: AudioSpec, encoder: Encoder, model: Model) -> nn.Module:
    """The encoder of a sound [1, bands, frames], or of a waveform [samples]."""
    return (
        WaveEncoder(spec.sample_rate, encoder, model)
        if spec.features == "waveform"
        else image.build(spec, encoder, model)
    )


class WaveEncoder(SeriesEncoder):
    """A series' encoder behind filters over 10 ms, every 2.5 ms, which are learned as the rest is (Dai et al. 2017).

    ``forward``: float32 [batch, samples] -> [batch, embedding].
    """

    def __init__(self, sample_rate: int, encoder: Encoder, model: Model) -> None:
        super().__init__(encoder.widths[0], encoder, model)
        kernel, stride = sample_rate // 100 | 1, max(1, sample_rate // 400)
        self.filters = stages(1, 1, encoder.widths[:1], 1, kernel=kernel, stride=stride, norm=model.norm)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.filters(x.unsqueeze(1)))
