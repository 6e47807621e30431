"""Encoder of sounds by attention and convolution in turn (Gulati et al. 2020, "Conformer"), small."""

from __future__ import annotations

from torch import Tensor, nn

from mmedge.models.encoders.stages import normed, over_frames
from mmedge.models.encoders.transformer import Tokens
from mmedge.recipe import Encoder, Model
from mmedge.spec import AudioSpec

# Steps that a convolution sees, of which each is four frames.
_KERNEL = 15


class OfSounds(nn.Module):
    """Two convolutions over a spectrogram's frames, each halving them, ``depth`` blocks, and a linear layer over their mean.

    Places are learned, as of all transformers here, and not relative. ``forward``: float32 [batch, 1, bands, frames] ->
    [batch, embedding].
    """

    def __init__(self, spec: AudioSpec, encoder: Encoder, model: Model) -> None:
        super().__init__()
        self.frames = over_frames(spec, encoder, model)
        self.tokens = Tokens(-(-spec.shape[-1] // 4), encoder, model, Block)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(self.frames(x.squeeze(1)).transpose(1, 2))


class Block(nn.Module):
    """Half a perceptron, self-attention, a convolution, half a perceptron, each added, and a norm.

    ``forward``: float32 [batch, length, width], and optionally bool [batch, length], true where a token is not to be
    attended -> float32 [batch, length, width].
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before, self.behind = _perceptron(width, dropout), _perceptron(width, dropout)
        self.norm, self.out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.convolution = Convolution(width)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        x = x + 0.5 * self.before(x)
        given = self.norm(x)
        x = x + self.attention(given, given, given, key_padding_mask=hidden, need_weights=False)[0]
        x = x + self.convolution(x)
        return self.out(x + 0.5 * self.behind(x))


class Convolution(nn.Module):
    """A gate, a convolution of each channel alone over the length, and a linear layer. ``forward``: [batch, length, width] -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.value, self.gate = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        self.along = nn.Conv1d(width, width, _KERNEL, 1, _KERNEL // 2, groups=width, bias=False)
        self.after = nn.Sequential(normed(1, width, "group"), nn.SiLU())
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        gated = self.value(x) * self.gate(x).sigmoid()
        return self.out(self.after(self.along(gated.transpose(1, 2))).transpose(1, 2))


def _perceptron(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
    )
