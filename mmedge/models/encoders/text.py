"""Encoder of texts: a bag of its tokens' embeddings, and the most that convolutions along them find."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.errors import MmedgeError
from mmedge.models.encoders.stages import stages
from mmedge.recipe import Encoder, Model
from mmedge.spec import ArraySpec, TextSpec

# Of the embeddings at first. PyTorch's 1.0 is noise for good where a token is rare, which most are.
_SPREAD = 0.02


def build(spec: TextSpec | ArraySpec, encoder: Encoder, model: Model) -> nn.Module:
    """The encoder of token ids [length]; raises MmedgeError where the text has no tokenizer yet."""
    return TextEncoder(spec, encoder, model)


class TextEncoder(nn.Module):
    """Token embeddings of the first width and 1-D convolutions over 3 tokens, brought from the text's length to one vector.

    By ``text_pooling`` max that is the sum of the n embeddings over the root of n, which is a bag of words (Iyyer et al.
    2015, "Deep unordered composition rivals syntactic methods for text classification", from whom the token dropout is
    too), beside the most that each convolution found anywhere (Kim 2014, "Convolutional neural networks for sentence
    classification"). The embeddings learn by the bag alone: convolutions that may move those of rare tokens learn texts
    by heart. By mean it is the convolutions' mean. What is padding counts in neither.

    ``forward``: int64 [batch, length] -> [batch, embedding]. A text of nothing but padding gives a finite vector.
    ``masked``, where texts may be of any length: padding is nothing after every layer, so that the output does not
    depend on how much of it there is.
    """

    def __init__(self, spec: TextSpec | ArraySpec, encoder: Encoder, model: Model) -> None:
        super().__init__()
        if spec.tokens is None:
            raise MmedgeError("the text has no tokenizer yet", todo="prepare the data first")
        self.pad, self.masked, self.bag = spec.pad, spec.shortest is not None, model.text_pooling == "max"
        self.token_dropout = model.token_dropout
        first, *rest = encoder.widths
        self.embed = nn.Embedding(spec.tokens, first)
        nn.init.normal_(self.embed.weight, std=_SPREAD)
        self.features = stages(1, first, rest or [first], encoder.depth, kernel=3, stride=1, norm=model.norm)
        pooled = encoder.widths[-1] + (first if self.bag else 0)
        self.project = nn.Sequential(nn.Dropout(model.dropout), nn.Linear(pooled, model.embedding), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        mask = (x != self.pad).to(torch.float32).unsqueeze(1)  # [batch, 1, length]
        seen = mask
        if self.training and self.token_dropout:
            seen = mask * (torch.rand_like(mask) >= self.token_dropout)
        embedded = self.embed(x).transpose(1, 2) * seen
        features = embedded.detach() if self.bag and self.training else embedded
        for layer in self.features:
            features = layer(features)
            if self.masked and isinstance(layer, nn.ReLU):
                features = features * mask
        features = features * mask
        if not self.bag:
            return self.project(features.sum(dim=2) / mask.sum(dim=2).clamp(min=1.0))
        bag = embedded.sum(dim=2) / seen.sum(dim=2).clamp(min=1.0).sqrt()
        return self.project(torch.cat([bag, features.amax(dim=2)], dim=1))
