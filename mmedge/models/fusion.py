"""The built-in fusion network: an encoder a modality, a learned vector where one is absent, and a joint head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mmedge.models.fusions import FUSIONS
from mmedge.models.generator import Beginning, Step

# A norm needs two samples, and a gradient a sample is taken of one (private training), where nothing can be told.
FEWEST = 2


class FusionNet(nn.Module):
    """Late fusion with a missing-modality contract.

    ``forward(**{modality: tensor}, present: bool [batch, modalities]) -> {head: [batch, W]}``. The columns of
    ``present`` follow the order of ``encoders``. The tensor of an absent modality is read but has no influence.
    The learned stand-in for an absent modality follows SMIL's idea of a modality prior (Ma et al. 2021) in its plainest
    form. In training ``present`` may be [batch, k, modalities]: the encoders run once for k outputs a sample, [batch *
    k, W]. A head that writes texts takes those that it learns under its own name, int64 [batch, steps], and then gives
    what its loss takes.

    ``imagined``: modalities that are no input. A branch a modality makes its embedding from the others' for the fusion
    (Hoffman, Gupta & Darrell 2016, "Learning with side information through modality hallucination", whose branch has
    convolutions of its own; here it stands on the encoders that are there, which costs two small matrices). ``heads``:
    what makes each, from ``hidden`` features on; called last, so that a seed gives the weights that it gave before.
    ``fusion``: how the features are joined, a row of ``FUSIONS``.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        embedding: int,
        hidden: int,
        heads: Mapping[str, Callable[[], nn.Module]],
        imagined: Sequence[str] = (),
        fusion: Callable[[int, int, int], nn.Module] = FUSIONS["concat"],
    ) -> None:
        super().__init__()
        self.modalities, self.heads = tuple(encoders), tuple(heads)
        self.encoders = nn.ModuleDict(encoders)
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(embedding)) for name in encoders})
        features = embedding * len(self.modalities)
        self.imagine = nn.ModuleDict({name: _imagining(features, embedding) for name in imagined})
        self.fusion = fusion(len(encoders) + len(imagined), embedding, hidden)
        # One head is not under its name, as artifacts of version 0.1 have it.
        each = {name: made() for name, made in heads.items()}
        self.head = nn.ModuleDict(each) if len(each) > 1 else next(iter(each.values()))

    def fused(self, present: Tensor, **inputs: Tensor) -> Tensor:
        """[batch, hidden]: what the heads are given."""
        encoded = [self._encoded(name, inputs[name], present[..., n]) for n, name in enumerate(self.modalities)]
        if present.dim() == 3:
            encoded = [repeated(x, present.shape[1]) for x in encoded]
            present = present.flatten(0, 1)
        embeddings = [
            torch.where(present[:, index : index + 1], encoded[index], self.absent[name])
            for index, name in enumerate(self.modalities)
        ]
        if self.imagine:
            given = torch.cat(embeddings, dim=1)
            embeddings += [branch(given) for branch in self.imagine.values()]
        return self.fusion(*embeddings)

    def head_modules(self) -> dict[str, nn.Module]:
        """{head: what makes its output}."""
        return dict(self.head.items()) if isinstance(self.head, nn.ModuleDict) else {self.heads[0]: self.head}

    def forward(self, present: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        fused = self.fused(present, **inputs)
        times = present.shape[1] if present.dim() == 3 else 1
        return {
            name: head(fused, repeated(inputs[name], times)) if name in inputs else head(fused)
            for name, head in self.head_modules().items()
        }

    def in_parts(self, head: str) -> tuple[nn.Module, nn.Module]:
        """(what runs once a text, what runs once a token) of a head that writes."""
        return Beginning(self, head), Step(self, head)

    def _encoded(self, name: str, x: Tensor, present: Tensor) -> Tensor:
        """The features of a modality; zeros, which nothing reads, of samples that lack it: they are not run where that can be told.

        In training these are the absent ones that are nothing but zeros, as the data's own missing ones are: in a norm's
        statistics they would stand for pictures. Otherwise it is a batch of which no sample has the modality.
        """
        encoder = self.encoders[name]
        if torch.compiler.is_compiling() or len(x) <= FEWEST or _heard(encoder):
            return encoder(x)
        if not self.training:
            return encoder(x) if present.any() else x.new_zeros(len(x), len(self.absent[name]), dtype=torch.float32)
        there = x.flatten(1).any(dim=1) | present.reshape(len(x), -1).any(dim=1)
        if there.all() or there.sum() < FEWEST:
            return encoder(x)
        features: Tensor = encoder(x[there])
        return features.new_zeros(len(x), features.shape[1]).index_put((there,), features)


class EarlyNet(FusionNet):
    """Early fusion with the same contract: ``encoder`` sees all modalities as channels of one input.

    ``channels``: {modality: the shape of its learned stand-in, [channels, 1, ...]}, in the order of ``present``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        channels: Mapping[str, Sequence[int]],
        embedding: int,
        hidden: int,
        heads: Mapping[str, Callable[[], nn.Module]],
        fusion: Callable[[int, int, int], nn.Module],
    ) -> None:
        super().__init__({"stacked": encoder}, embedding, hidden, heads, fusion=fusion)
        self.modalities = tuple(channels)
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(*shape)) for name, shape in channels.items()})

    def fused(self, present: Tensor, **inputs: Tensor) -> Tensor:
        given = [inputs[name] for name in self.modalities]
        if present.dim() == 3:
            given = [repeated(x, present.shape[1]) for x in given]
            present = present.flatten(0, 1)
        there = present.reshape(*present.shape, *[1] * (given[0].dim() - 2))
        seen = [
            torch.where(there[:, n : n + 1], x, self.absent[name])
            for n, (name, x) in enumerate(zip(self.modalities, given))
        ]
        return self.fusion(self.encoders["stacked"](torch.cat(seen, dim=1)))


class TokenNet(FusionNet):
    """Fusion of tokens with the same contract: each encoder gives a vector a token, or one that is the only token.

    ``pads``: {modality: the id of padding, None of what is no text}. Of an absent modality the learned stand-in is one token.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        pads: Mapping[str, int | None],
        embedding: int,
        hidden: int,
        heads: Mapping[str, Callable[[], nn.Module]],
        fusion: Callable[[int, int, int], nn.Module],
    ) -> None:
        super().__init__(encoders, embedding, hidden, heads, fusion=fusion)
        self.pads = dict(pads)
        for encoder in encoders.values():
            part = getattr(encoder, "tokens", encoder)
            if hasattr(part, "pooled"):
                part.pooled = False

    def fused(self, present: Tensor, **inputs: Tensor) -> Tensor:
        times = present.shape[1] if present.dim() == 3 else 1
        present = present.flatten(0, 1) if present.dim() == 3 else present
        tokens, hidden = [], []
        for n, name in enumerate(self.modalities):
            x, here = inputs[name], present[:, n : n + 1]
            each, pad = repeated(self.encoders[name](x), times), self.pads[name]
            each = each if each.dim() == 3 else each.unsqueeze(1)
            first = torch.ones_like(each[:, :, 0]).cumsum(dim=1) == 1
            whole = pad is None or each.shape[1] == 1
            padding = torch.zeros_like(first) if whole else repeated(x == pad, times) & ~first
            tokens.append(torch.where(here.unsqueeze(2), each, self.absent[name]))
            hidden.append((here & padding) | ~(here | first))
        joined: Tensor = self.fusion(tokens, hidden)
        return joined


def _heard(encoder: nn.Module) -> bool:
    """Whether somebody listens to a layer of it; what brings the weights of a sharded one (torch.distributed) does not."""
    hooks = (hook for layer in encoder.modules() for hook in layer._forward_hooks.values())
    return any(not str(getattr(hook, "__module__", "")).startswith("torch.distributed") for hook in hooks)


def repeated(x: Tensor, times: int) -> Tensor:
    """[batch, ...] -> [batch * times, ...]: every row ``times`` in a row."""
    return x.repeat_interleave(times, dim=0) if times > 1 else x


def _imagining(features: int, embedding: int) -> nn.Module:
    """[batch, given] -> [batch, embedding]."""
    return nn.Sequential(nn.Linear(features, embedding), nn.ReLU(), nn.Linear(embedding, embedding), nn.ReLU())
