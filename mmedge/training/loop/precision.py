"""How the model is run while it trains: in which precision, compiled or not, and how its pictures lie in memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.errors import MissingDependency, MmedgeError
from mmedge.graph.trace import example
from mmedge.recipe import Train

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def caller(module: nn.Module, train: Train, device: torch.device, *, last: bool = False) -> Any:
    """``module`` as an objective calls it: ``call(**inputs) -> {output: float32}``. ``last``: as ``channels_last`` found.

    Only the forward pass is in mixed precision (Micikevicius et al. 2018): the teacher and the losses stay FP32, so
    that a softened class of 1e-4 is not rounded away. Raises MissingDependency where the machine lacks what the recipe
    asks for.
    """
    run: Any = _compiled(module, device) if train.compile else module
    given = with_channels_last if last else dict
    if train.precision == "fp32":
        return (lambda **inputs: run(**given(inputs))) if last else run
    require_precision(train.precision, device)

    def call(**inputs: Tensor) -> dict[str, Tensor]:
        with autocast(train.precision, device):
            outputs = run(**given(inputs))
        return {name: output.float() for name, output in outputs.items()}

    return call


def channels_last(module: nn.Module, precision: str, device: torch.device, contract: Contract) -> bool:
    """Whether a network is given its pictures with the channels last in memory, as convolutions compute them on CPUs and, in half
    precision, on GPUs.

    Its maps then lie so, too; weights, and so states and artifacts, stay as they are. By a rule (``tests/benchmarks/layout.py``), never
    by timing: the same seed gives the same weights. A network that cannot take them so, as ``view`` of a map cannot, is left as it
    is: it is tried once.
    """
    pays = device.type == "cpu" or precision != "fp32"
    if not pays or not any(isinstance(layer, nn.Conv2d) for layer in module.modules()):
        return False
    where, mode, inputs = next(module.parameters()).device, module.training, example(contract)
    inputs = {name: x.to(where) for name, x in inputs.items()}
    try:
        with torch.no_grad():
            module.eval()(**with_channels_last(inputs))
    except Exception:  # whatever a network of the user's own raises; where it cannot run at all is told elsewhere
        return False
    finally:
        module.train(mode)
    return True


def with_channels_last(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors; those [batch, channels, rows, columns] with their channels last in memory."""
    return {name: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x for name, x in inputs.items()}


def scaler_of(train: Train, device: torch.device) -> torch.amp.GradScaler | None:
    """What keeps the small gradients of FP16 from vanishing; the other precisions need none."""
    return torch.amp.GradScaler(device.type) if train.precision == "fp16" else None


def autocast(precision: str, device: torch.device, where: str = "train.precision") -> AbstractContextManager[Any]:
    """What runs a network in a precision; raises as ``require_precision``."""
    if precision == "fp32":
        return nullcontext()
    require_precision(precision, device, where)
    return torch.autocast(device.type, _DTYPES[precision])


def require_precision(precision: str, device: torch.device, where: str = "train.precision") -> None:
    """Raise MissingDependency where ``device`` does not compute in ``precision``, which the key ``where`` asks for."""
    if precision == "fp16" and device.type == "cpu":
        raise MissingDependency("FP16 needs a GPU, and there is none here", where=where, todo="use bf16 or fp32")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise MissingDependency("this GPU has no BF16", where=where, todo="use fp16 or fp32")


def _compiled(module: nn.Module, device: torch.device) -> Any:
    # A function of one line tells a machine without a compiler from a model that cannot be compiled.
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.zeros(2, device=device))
    except Exception as error:
        raise MissingDependency(
            f"torch.compile does not work here: {_first_line(error)}",
            where="train.compile",
            todo="install a C++ compiler (for a GPU: Triton), or set train.compile: false",
        ) from error
    compiled = torch.compile(module)

    def call(**inputs: Tensor) -> dict[str, Tensor]:
        try:
            return compiled(**inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise MmedgeError(
                f"the model cannot be compiled: {_first_line(error)}",
                where="train.compile",
                todo="set train.compile: false",
            ) from error

    return call


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
