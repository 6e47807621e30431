"""How the model is run while it trains: in which precision, and compiled or not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mmedge.errors import MissingDependency, MmedgeError
from mmedge.recipe import Train

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def caller(module: nn.Module, train: Train, device: torch.device) -> Any:
    """``module`` as an objective calls it: ``call(**inputs) -> {output: float32}``.

    Only the forward pass is in mixed precision (Micikevicius et al. 2018): the teacher and the losses stay FP32, so
    that a softened class of 1e-4 is not rounded away. Raises MissingDependency where the machine lacks what the recipe
    asks for.
    """
    run: Any = _compiled(module, device) if train.compile else module
    if train.precision == "fp32":
        return run
    require_precision(train.precision, device)

    def call(**inputs: Tensor) -> dict[str, Tensor]:
        with autocast(train.precision, device):
            outputs = run(**inputs)
        return {name: output.float() for name, output in outputs.items()}

    return call


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
