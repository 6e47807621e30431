"""What a run needs of a network, tried on an untrained copy: that it learns, is saved, exported and gives what it does in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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
from mmedge.models.traps import STOPPING, behaviour, forward_failed, is_script
from mmedge.models.tried import check_learns, check_rebuilt
from mmedge.recipe import Model
from mmedge.stages.trained import verify
from mmedge.training.context import Context

# Fresh weights give larger differences than trained ones; what cannot be exported differs by far more.
_TOLERANCE = 1e-3
_ROWS = 12


def trial(make: Callable[[], nn.Module], contract: Contract, where: str, *, trains: bool = True) -> nn.Module:
    """Build a network, run it one sample at a time, save it, build it again, and train a step where a run ``trains`` it.

    Returns the network, untrained. Raises UsageError with what stands in the way, at the recipe's section ``where``.
    """
    module = make().eval()
    try:
        with torch.no_grad():
            faults = [fault for fault in behaviour(module, contract, where) if fault.kind in STOPPING]
    except MmedgeError:
        raise
    except Exception as error:  # a user's forward may raise anything
        fault = forward_failed(error, contract, where)
        raise UsageError(fault.what, where=where, todo=fault.todo) from error
    if faults:
        raise UsageError(faults[0].what, where=faults[0].module, todo=faults[0].todo)
    with scratch() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)  # what is drawn when it is built is drawn anew
        try:
            load.save(module, folder, [])
            again = make()
            load.load_weights(again, folder / load.WEIGHTS)
        except MmedgeError as error:
            raise UsageError(error.what, where=where, todo=error.todo) from error
        check_rebuilt(module, again, contract, where)
    if trains:
        check_learns(module, contract, where)
    return module


def try_export(module: nn.Module, contract: Contract, where: str, samples: Samples | None = None) -> None:
    """Export an untrained network and hold its graph against it.

    ``samples``: to compare on; random ones where there are none. Raises UsageError with what stands in the way, at the
    recipe's section ``where``.
    """
    way_out = ", or do not export it: teacher.export: false" if where == "teacher.model" else ""
    if scripted := [name for name, part in module.named_modules() if is_script(part)]:
        raise UsageError(
            f"{scripted[0].removeprefix('inner.')} is TorchScript, which the exporter does not take",
            where=where,
            todo=f"build the network of the module that was scripted{way_out}",
        )
    if samples is None:
        samples = random_samples(contract)
    few = samples.only(tuple(contract.modalities)).taken(np.arange(min(_ROWS, len(samples))))
    with scratch() as folder:
        try:
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
            raise UsageError(error.what, where=place, todo=f"{error.todo}{way_out}") from error


def try_teacher(context: Context) -> None:
    """Try the recipe's teacher, where it is of code that is not mmedge's; hours of training are not lost then."""
    config = context.recipe.teacher
    if config.model.foreign and not config.onnx and not config.outputs:
        own = context.preprocessed_for(config)
        _try(config.model, own, "teacher.model", trains=config.train is not None, exported=config.export)


def try_student(context: Context) -> None:
    """Try the recipe's student, where it is of code that is not mmedge's."""
    assert context.recipe.distill is not None
    if context.recipe.distill.model.foreign:
        _try(context.recipe.distill.model, context, "distill.model")


def _try(section: Model, context: Context, where: str, *, trains: bool = True, exported: bool = True) -> None:
    contract = context.contract(section)
    context.progress.say(f"{where}: trying the untrained network")
    module = trial(partial(context.build, section, contract), contract, where, trains=trains)
    if not trains:
        load.refuse_probabilities(module, contract, where)
    if exported:
        try_export(module, contract, where, context.dataset.validation)


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
