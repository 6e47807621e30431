"""Which layers' channels go together: torch-pruning's graph of a network, told of what it does not know by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.graph.trace import example
from mmedge.models.recurrent import RECURRENT, in_one_piece, width


def dependencies(module: nn.Module, contract: Contract) -> Any:
    """torch-pruning's graph of which layers' channels go together (Fang et al. 2023), by tracing an example."""
    import torch_pruning

    class Graph(torch_pruning.DependencyGraph):
        def _trace(self, *args: Any, **kwargs: Any) -> Any:
            """It takes every concatenation behind a class token for one of tokens: those of features are told apart."""
            nodes = super()._trace(*args, **kwargs)
            for node in nodes.values():
                if "CatBackward" in str(node.grad_fn) and _of_features(node.grad_fn):
                    node.enable_index_mapping = True
            return nodes

    with in_one_piece(module), _learning(module):
        return Graph().build_dependency(
            module.eval(),
            example(contract, learning=True),
            forward_fn=_forward,
            output_transform=_outputs,
            verbose=False,
            customized_pruners=dict.fromkeys(RECURRENT, _recurrent()),
            unwrapped_parameters=_unwrapped(module) or None,
        )


@contextmanager
def _learning(module: nn.Module) -> Iterator[None]:
    """Every parameter has a gradient meanwhile: what is frozen is not traced, and what is frozen as it is built (positions of
    Whisper) may not be so where weights are loaded, so that the one could not be cut as the other was."""
    frozen = [each for each in module.parameters() if not each.requires_grad and each.is_floating_point()]
    for each in frozen:
        each.requires_grad_(requires_grad=True)
    try:
        yield
    finally:
        for each in frozen:
            each.requires_grad_(requires_grad=False)


def _of_features(concatenation: Any) -> bool:
    """Whether a traced ``torch.cat`` joins channels, as far as its rank tells: of [batch, channels] or of maps."""
    rank = len(concatenation._input_metadata[0].shape)
    return rank in (2, 4) and concatenation._saved_dim % 2**64 in (1, 2**64 - rank + 1)


def _recurrent() -> Any:
    """What torch-pruning is told of recurrent layers: their inputs can be narrowed, their own width is left alone.

    It knows no GRU, and of an LSTM neither two directions nor several layers.
    """
    from torch_pruning.pruner.function import BasePruningFunc

    class Recurrent(BasePruningFunc):
        def prune_in_channels(self, layer: nn.RNNBase, idxs: list[int]) -> nn.Module:
            kept = sorted(set(range(layer.input_size)) - set(idxs))
            for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
                if hasattr(layer, name):
                    setattr(layer, name, self._prune_parameter_and_grad(getattr(layer, name), kept, 1))
            layer.input_size = len(kept)
            return layer

        def prune_out_channels(self, layer: nn.RNNBase, idxs: list[int]) -> nn.Module:
            raise ValueError(f"the width of {type(layer).__name__} is not pruned")

        def get_in_channels(self, layer: nn.RNNBase) -> int:
            return layer.input_size

        def get_out_channels(self, layer: nn.RNNBase) -> int:
            return width(layer)

    return Recurrent()


def _unwrapped(module: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Bare parameters and the axis that torch-pruning prunes them along, a vector along its only one."""
    return [
        (parameter, parameter.dim() - 1)
        for owner in module.modules()
        if isinstance(owner, nn.ParameterDict)
        for parameter in owner.values()
    ]


def _forward(module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    return module(**inputs)


def _outputs(result: Mapping[str, Tensor]) -> list[Tensor]:
    """What torch-pruning traces back from: indices and flags lead nowhere."""
    return [x for x in result.values() if x.grad_fn is not None]
