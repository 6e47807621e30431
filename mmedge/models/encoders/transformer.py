"""Encoders by self-attention: over patches of a map, steps of a series, tokens of a text, columns of a table."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmedge.errors import MmedgeError, UsageError
from mmedge.recipe import Encoder, Model
from mmedge.spec import ModalitySpec, SensorSpec, TextSpec

# Deviation of what is learned from nothing: places and embeddings.
SPREAD = 0.02


class Block(nn.Module):
    """Self-attention and a perceptron, each behind a layer norm and added (Vaswani et al. 2017, Xiong et al. 2020).

    ``forward``: float32 [batch, length, width], and optionally bool [batch, length], true where a token is not to be
    seen -> float32 [batch, length, width].
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, key_padding_mask=hidden, need_weights=False)[0]
        return x + self.feed(self.norm2(x))


class Tokens(nn.Module):
    """``depth`` blocks over tokens with learned places, and a linear layer over their mean. ``block``: (width, heads, dropout) -> one.

    ``forward``: float32 [batch, length, width], and optionally bool [batch, length], true where a token is padding ->
    [batch, embedding]. Of nothing but padding the first token is attended, so that the output is finite.
    """

    def __init__(
        self, length: int, encoder: Encoder, model: Model, block: Callable[[int, int, float], nn.Module] = Block
    ) -> None:
        super().__init__()
        width = encoder.widths[-1]
        if width % encoder.heads:
            raise UsageError(
                f"a transformer of {width} channels cannot have {encoder.heads} heads",
                todo=f"make the last of widths a multiple of heads, as {encoder.heads * max(1, width // encoder.heads)}",
            )
        self.places = nn.Parameter(torch.randn(1, length, width) * SPREAD)
        self.blocks = nn.ModuleList(block(width, encoder.heads, model.dropout) for _ in range(encoder.depth))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Sequential(nn.Dropout(model.dropout), nn.Linear(width, model.embedding), nn.ReLU())
        self.pooled = True  # false: [batch, length, embedding], for a fusion of tokens

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        x = x + self.places[:, : x.shape[1]]
        hidden = None if padding is None else padding & (torch.ones_like(padding[:1]).cumsum(dim=1) > 1)
        for block in self.blocks:
            x = block(x, hidden)
        x = self.norm(x)
        if not self.pooled:
            return self.project(x)
        if padding is None:
            return self.project(x.mean(dim=1))
        seen = (~padding).to(x.dtype).unsqueeze(2)
        return self.project((x * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1.0))


class OfMaps(nn.Module):
    """Patches of a map as tokens: ViT (Dosovitskiy et al. 2021), of a spectrogram AST (Gong et al. 2021).

    ``forward``: float32 [batch, channels, height, width] -> [batch, embedding]. A patch that the map's border cuts is
    filled with zeros.
    """

    def __init__(self, spec: ModalitySpec, encoder: Encoder, model: Model) -> None:
        super().__init__()
        channels, height, width = spec.shape
        size = min(encoder.patch, height, width)
        rows, columns = -(-height // size), -(-width // size)
        fill = nn.ZeroPad2d((0, columns * size - width, 0, rows * size - height))
        self.patches = nn.Sequential(fill, nn.Conv2d(channels, encoder.widths[-1], size, size), nn.Flatten(2))
        self.tokens = Tokens(rows * columns, encoder, model)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(self.patches(x).transpose(1, 2))


class OfSeries(nn.Module):
    """Every second step of a series, by a convolution over five, as a token.

    ``forward``: float32 [batch, channels, length] -> [batch, embedding].
    """

    def __init__(self, spec: SensorSpec, encoder: Encoder, model: Model) -> None:
        super().__init__()
        self.steps = nn.Conv1d(spec.channels, encoder.widths[-1], 5, 2, 2)
        self.tokens = Tokens((spec.length + 1) // 2, encoder, model)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(self.steps(x).transpose(1, 2))


class OfTexts(nn.Module):
    """Token embeddings, of which padding is not seen. ``forward``: int64 [batch, length] -> [batch, embedding]."""

    def __init__(self, spec: TextSpec, encoder: Encoder, model: Model) -> None:
        super().__init__()
        if spec.tokens is None:
            raise MmedgeError("the text has no tokenizer yet", todo="prepare the data first")
        self.pad, self.token_dropout = spec.pad, model.token_dropout
        self.embed = nn.Embedding(spec.tokens, encoder.widths[-1])
        nn.init.normal_(self.embed.weight, std=SPREAD)
        self.tokens = Tokens(spec.shape[-1], encoder, model)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embed(x)
        if self.training and self.token_dropout:
            embedded = embedded * (torch.rand(*x.shape, 1, device=x.device) >= self.token_dropout)
        return self.tokens(embedded, x == self.pad)


class OfColumns(nn.Module):
    """Each number of a table as a token of its own direction: FT-Transformer (Gorishniy et al. 2021).

    ``forward``: float32 [batch, ...] -> [batch, embedding]; what is not flat is flattened.
    """

    def __init__(self, spec: ModalitySpec, encoder: Encoder, model: Model) -> None:
        super().__init__()
        count, width = 1, encoder.widths[-1]
        for size in spec.shape:
            count *= size
        self.directions = nn.Parameter(torch.randn(1, count, width) * width**-0.5)
        self.tokens = Tokens(count, encoder, model)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x.flatten(1).unsqueeze(2) * self.directions)
