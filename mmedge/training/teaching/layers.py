"""What hints are about: the output of a named layer of any module, in a form that two networks can be compared in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmedge.errors import UsageError, did_you_mean
from mmedge.models.ensemble import members_of
from mmedge.models.heads import Wrapped
from mmedge.recipe import Hint
from mmedge.training.losses.hints import attention_map

# Numbers of a map that are compared, at most: what is larger is pooled onto a coarser grid.
MOST_FEATURES = 512
# Weights of a learned projection, at most: 256 MB.
_MOST_WEIGHTS = 1 << 26
# What torch's layers call the channels that they put out.
_WIDTHS = ("out_channels", "out_features", "num_features", "num_channels", "embedding_dim", "embed_dim", "hidden_size")

# Layers whose channels come second and places behind them, by their definition in torch.
_OF_PLACES = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.Upsample,
    nn.PixelShuffle,
)


def layers_of(module: nn.Module) -> dict[str, nn.Module]:
    """{name: layer} by the names that a recipe uses: those of the user's own module, whatever it is wrapped in; of an
    ensemble's first."""
    module = members_of(module)[0]
    own = module.inner if isinstance(module, Wrapped) else module
    return {name: child for name, child in own.named_modules() if name}


def layer_of(module: nn.Module, name: str) -> nn.Module | None:
    """The layer that a hint names, where there is one; the wrapper's ``inner.`` may be written."""
    layers = layers_of(module)
    return layers.get(name, layers.get(name.removeprefix("inner.")))


class HintedLayer:
    """Keeps the output of one named layer of a module: [batch, features], or its attention map for that kind of hint.

    Where a layer returns several things, the first tensor counts. Its batch may be the first or the second axis (as in
    an ``nn.Transformer`` that is not ``batch_first``). A map [batch, channels, *places] or [batch, *places, channels]
    of more than ``MOST_FEATURES`` numbers is averaged over places onto the finest grid that has no more.
    """

    def __init__(self, module: nn.Module, layer: str, kind: str, who: str) -> None:
        found = layer_of(module, layer)
        if found is None:
            layers = layers_of(module)
            raise UsageError(
                f"the {who} has no layer {layer!r}{did_you_mean(layer, layers)}; it has {_some(layers)}",
                where=f"distill.loss.hints.{who}",
            )
        self._layer, self._name, self._kind, self._who = found, layer, kind, who
        self._output: Any = None
        self._batch_axis: int | None = None
        self._shaped_by = found
        self._watches = [] if _is_shaping(found) else [m.register_forward_hook(self._watch) for m in module.modules()]
        found.register_forward_hook(self._keep)

    def _watch(self, module: nn.Module, _inputs: Any, _output: Any) -> None:
        """In the first pass: the last layer before this one whose kind tells where the channels are."""
        if module is self._layer:
            while self._watches:
                self._watches.pop().remove()
        elif _is_shaping(module):
            self._shaped_by = module

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._output = output

    def take(self, *batch: int) -> Tensor:
        """The layer's output in the last forward pass, float32 [batch, features] whatever precision it ran in.

        ``batch``: how many samples that pass was of; several where a layer may run once for several outputs. The first
        call settles where the batch is; let it be of one sample, so that no other axis is as long by chance. Raises
        UsageError where the layer gives nothing that can be compared.
        """
        output, self._output = self._output, None
        value = next(_tensors(output), None)
        if value is None:
            self._refuse("did not run" if output is None else f"returns no tensor but {type(output).__name__}")
        assert value is not None
        if self._batch_axis is None:
            self._batch_axis = next((axis for axis, size in enumerate(value.shape[:2]) if size in batch), None)
        axis = self._batch_axis
        if axis is None or value.dim() <= axis or value.shape[axis] not in batch or not value.dtype.is_floating_point:
            kind = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
            self._refuse(f"gives {kind} for a batch of {batch[0]}, not floats of which an axis is the batch")
        value = value.float().transpose(0, self._batch_axis or 0)
        if value.dim() >= 3:
            value = value.movedim(_channel_axis(self._shaped_by, value.shape), 1)
        return attention_map(value) if self._kind == "attention" else pooled(value).flatten(1)

    def _refuse(self, what: str) -> None:
        raise UsageError(
            f"the {self._who}'s layer {self._name!r} {what}",
            where=f"distill.loss.hints.{self._who}",
            todo="name another layer, such as one inside it or the one after it",
        )


def check_pair(hint: Hint, student: int, teacher: int) -> None:
    """Raise UsageError where the two layers of a hint, of so many numbers a sample, cannot be compared in its kind."""
    where = f"distill.loss.hints: student {hint.student!r}, teacher {hint.teacher!r}"
    if hint.kind == "attention" and student != teacher:
        raise UsageError(
            f"attention compares maps, and of these layers, of {student} and {teacher} numbers a sample, one has none",
            where=where,
            todo="name layers that have places (convolutions, tokens), or use features or relations",
        )
    if hint.kind == "features" and student * teacher > _MOST_WEIGHTS:
        raise UsageError(
            f"the projection from {student} to {teacher} numbers a sample would have {student * teacher / 1e9:.1f} billion weights",
            where=where,
            todo="name the layer before the map is flattened, which is pooled, or use relations",
        )


def pooled(x: Tensor) -> Tensor:
    """[batch, channels, *places] -> the same over the finest even grid of at most ``MOST_FEATURES`` numbers a sample.

    FitNets (Romero et al. 2015, section 2.2) uses a convolutional regressor because one over all numbers of a map would
    be larger than the networks; a coarser grid keeps it small also where the two maps have different sizes.
    """
    places = x.shape[2:]
    if not places or x.shape[1] * math.prod(places) <= MOST_FEATURES:
        return x
    if len(places) > 3:
        x = x.flatten(4)
    cells, rest = list(x.shape[2:]), max(1, MOST_FEATURES // x.shape[1])
    shortest_first = sorted(range(len(cells)), key=cells.__getitem__)  # what a short axis leaves, others get
    for count, axis in enumerate(shortest_first):
        cells[axis] = max(1, min(cells[axis], int(rest ** (1 / (len(cells) - count)) + 1e-9)))
        rest //= cells[axis]
    match cells:
        case [along]:
            return F.adaptive_avg_pool1d(x, along)
        case [rows, columns]:
            return F.adaptive_avg_pool2d(x, (rows, columns))
    return F.adaptive_avg_pool3d(x, (cells[0], cells[1], cells[2]))


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in what a layer returned, in their order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)


def _is_shaping(layer: nn.Module) -> bool:
    """Whether it tells by itself which axis of its output is the channels: it has widths, or works on places.

    An activation, a dropout or a function of the user's does not; it leaves the axes as what ran before it put them.
    """
    return bool(_widths(layer)) or any(isinstance(part, _OF_PLACES) for part in layer.modules())


def _widths(layer: nn.Module) -> set[int]:
    """How many channels what is inside the layer puts out."""
    widths: set[int] = set()
    for part in layer.modules():
        widths |= {getattr(part, name) for name in _WIDTHS if isinstance(getattr(part, name, None), int)}
        if isinstance(part, nn.RNNBase) and part.bidirectional:
            widths.add(2 * part.hidden_size)
        if isinstance(part, nn.LayerNorm):
            widths.add(part.normalized_shape[-1])
    return widths


def _channel_axis(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Which axis of an output [batch, ...] is the channels: the second (convolutions) or the last (tokens).

    Told by the widths of what is inside the layer; where both axes have one, by whether it works on places. ``layer``:
    the one itself, or what shaped its input (``_is_shaping``).
    """
    widths, last = _widths(layer), len(shape) - 1
    found = [axis for axis in (1, last) if shape[axis] in widths]
    if len(found) == 1:
        return found[0]
    of_places = any(isinstance(part, _OF_PLACES) for part in layer.modules())
    return 1 if of_places or not found else last


def _some(layers: Mapping[str, nn.Module], most: int = 24) -> str:
    """Names of layers, the outermost first: a large model has hundreds."""
    names = sorted(layers, key=lambda name: name.count("."))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
