"""What a run needs of a network, tried on an untrained copy: that it is saved, exported and gives what it does in torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.artifact import GRAPH
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.errors import MismatchError, MmedgeError, UsageError
from mmedge.graph.export import export
from mmedge.graph.trace import example, generated
from mmedge.leftovers import scratch
from mmedge.models import load
from mmedge.models.traps import behaviour
from mmedge.recipe import Model
from mmedge.stages.trained import verify
from mmedge.training.context import Context

# Fresh weights give larger differences than trained ones; what cannot be exported differs by far more.
_TOLERANCE = 1e-3
_ROWS = 12


def trial(module: nn.Module, contract: Contract, where: str, samples: Samples | None = None) -> None:
    """Run ``module`` one sample at a time, save, load and export it, and hold its graph against it.

    ``samples``: to compare on; random ones where there are none. Raises MmedgeError with what stands in the way, at the
    recipe's section ``where``.
    """
    module.eval()
    with torch.no_grad():
        faults = [fault for fault in behaviour(module, contract, where) if fault.kind in ("batch-1", "train-mode")]
    if faults:
        raise UsageError(faults[0].what, where=faults[0].module, todo=faults[0].todo)
    if samples is None:
        samples = random_samples(contract)
    few = samples.only(tuple(contract.modalities)).taken(np.arange(min(_ROWS, len(samples))))
    with scratch() as folder:
        try:
            load.save(module, folder, [])
            load.load_weights(module, folder / load.WEIGHTS)
            export(module, contract, folder / GRAPH)
            verify(module, folder / GRAPH, contract, few, _TOLERANCE)
        except MmedgeError as error:
            inside = None if (error.where or "").startswith(str(folder)) else error.where
            place = ", ".join(part for part in (where, inside) if part)
            odd = _odd_type(module, contract)
            if odd is not None and not isinstance(error, MismatchError):
                raise UsageError(
                    f"the network computes in {odd[1]}, which its graph cannot: {error.what}",
                    where=f"{where}, {odd[0]}",
                    todo="call .float() on the module and on its inputs, and leave autocast to train.precision",
                ) from error
            raise UsageError(error.what, where=place, todo=error.todo) from error


def try_teacher(context: Context) -> None:
    """``trial`` of the recipe's teacher, where it is of code that is not mmedge's; hours of training are not lost then."""
    config = context.recipe.teacher
    if config.model.foreign and config.export and not config.onnx and not config.outputs:
        module, contract = _try(config.model, context.preprocessed_for(config), "teacher.model")
        if config.train is None:
            load.refuse_probabilities(module, contract, "teacher.model")


def try_student(context: Context) -> None:
    """``trial`` of the recipe's student, where it is of code that is not mmedge's."""
    assert context.recipe.distill is not None
    if context.recipe.distill.model.foreign:
        _try(context.recipe.distill.model, context, "distill.model")


def _try(section: Model, context: Context, where: str) -> tuple[nn.Module, Contract]:
    contract = context.contract(section)
    context.progress.say(f"{where}: trying to export the untrained network")
    module = context.build(section, contract)
    trial(module, contract, where, context.dataset.validation)
    return module, contract


def random_samples(contract: Contract) -> Samples:
    """Samples of random numbers and token ids, everything present and unlabelled."""
    inputs = {name: x.numpy() for name, x in generated(contract, _ROWS).items() if name != "present"}
    rows = np.arange(_ROWS)
    ids = tuple(f"random {row}" for row in rows)
    return Samples("random", ids, inputs, np.ones((_ROWS, len(inputs)), bool), {}, rows, {})


def _odd_type(module: nn.Module, contract: Contract) -> tuple[str, str] | None:
    """(submodule, type) of the first that gives floats other than float32; None where there is none."""
    found: list[tuple[str, str]] = []

    def look(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.dtype != torch.float32:
            found.append((name, str(output.dtype).removeprefix("torch.")))

    hooks = []
    for name, child in module.named_modules():
        place = f"{name.removeprefix('inner').removeprefix('.')} ({type(child).__name__})".lstrip()
        hooks.append(child.register_forward_hook(lambda _m, _i, output, place=place: look(place, output)))
    try:
        with torch.no_grad():
            module(**example(contract))
    finally:
        for hook in hooks:
            hook.remove()
    return next(iter(found), None)
