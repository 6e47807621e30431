"""A network that a caller gives, as an object, by its name or as a file, and what a recipe says of it.

The caller's own module is never changed: mmedge works on a copy, on the CPU and in evaluation mode, out of what it is
wrapped in (``torch.compile``, data parallelism) and without the hooks that look at it.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError, UnusableModel, UsageError, first_line
from mmedge.recipe.code import load_attribute
from mmedge.recipe.objects import hold

# Hooks of torch's own that a network computes its weights with; all others look at it, or belong to training.
_COMPUTES = "torch.nn.utils"


@dataclass(frozen=True)
class Network:
    """``model``: what the recipe's section says of it; ``onnx``: a model file instead.

    ``takes``, ``may_take``: the inputs that it must and can be given, in order; ``any_input``: or any other. ``call``:
    {input: [batch, ...]} -> {output: [batch, ...]}. ``module``: the copy, whose weights are to be taken as they are.
    ``notes``: what was done to it; ``keeps``: what must live as long as the recipe names it.
    """

    model: dict[str, Any]
    takes: tuple[str, ...]
    may_take: tuple[str, ...]
    call: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    any_input: bool = False
    onnx: Path | None = None
    module: Any = None
    notes: tuple[str, ...] = ()
    keeps: Any = None

    def written(self, out: Path) -> dict[str, Any]:
        """The recipe's section of a network that has learnt already; its weights are written below ``out/.work``."""
        if self.onnx is not None:
            return {"onnx": str(self.onnx), "model": self.model}
        if self.module is None:
            return {"model": self.model}
        from mmedge.data.store.folder import private
        from mmedge.models import load

        folder = out / ".work" / "given" / self.model["factory"].rpartition("-")[2]
        private(out / ".work")
        private(folder)
        load.save(self.module, folder, [])
        return {"model": {**self.model, "weights": str(folder / load.WEIGHTS)}}


class _Copies:
    """A factory whose networks are copies of the one that was given."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self) -> Any:
        return copy.deepcopy(self.module)


class _Calls:
    """A factory that the caller gave: a class or a function."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, **args: Any) -> Any:
        return _plain(self.make(**args))[0]


def holder(factory: Callable[..., Any]) -> Any:
    """What can be held in place of a network that an earlier process gave: a function, or a module to copy."""
    from torch import nn

    return _Copies(_plain(factory)[0]) if isinstance(factory, nn.Module) else _Calls(factory)


def network(given: Any, *, weights: str | Path | None = None, args: Mapping[str, Any] | None = None) -> Network:
    """The network that is given: an ``nn.Module``, a class or function that makes one, ``module:factory``, an ONNX file, or
    the recipe's own section of the built-in network (a mapping).

    ``weights``, ``args``: of ``module:factory`` and of functions. Raises UnusableModel and UsageError.
    """
    from torch import nn

    if isinstance(given, nn.Module):
        if weights or args:
            raise UsageError("'weights' and 'args' are of a module:factory; the module that is given has its own")
        return _of_module(given)
    if isinstance(given, (str, Path)) and str(given).lower().endswith(".onnx"):
        if weights or args:
            raise UsageError("'weights' and 'args' are of a module:factory; an ONNX file has its own", where=str(given))
        return _of_file(Path(given))
    section: dict[str, Any] = {"args": dict(args)} if args else {}
    if weights is not None:
        section["weights"] = str(Path(weights).expanduser().resolve())
    if isinstance(given, Mapping):
        return Network({**given, **section}, (), (), _no_call, any_input=True)
    if isinstance(given, str) and ":" in given:
        found = load_attribute(given, Path.cwd())
        return _made({"factory": given, **section}, _built(found, section, given))
    if callable(given) and not isinstance(given, (str, Path)):
        factory = _Calls(given)
        module = _built(factory, section, getattr(given, "__qualname__", type(given).__name__))
        name = hold(_word(type(module).__name__), _digest(module, given), factory)
        return _made({"factory": name, **section}, module, keeps=factory)
    raise UnusableModel(
        f"a model cannot be {_article(given)}",
        todo="give a torch.nn.Module, a class or function that makes one, 'module:factory', an .onnx file, or what an earlier call returned",
    )


def _of_module(given: Any) -> Network:
    module, notes = _plain(given)
    factory = _Copies(module)
    name = hold(_word(type(module).__name__), _digest(module, None), factory)
    return _made({"factory": name}, module, keeps=factory, own=module, notes=notes)


def _plain(given: Any) -> tuple[Any, tuple[str, ...]]:
    """(a copy of the bare network on the CPU, in evaluation mode and float32; what was done to it)."""
    import torch
    from torch import nn

    notes = []
    if not isinstance(given, nn.Module):
        raise UnusableModel(f"the factory returned {_article(given)}", todo="return a torch.nn.Module")
    if isinstance(given, torch.jit.ScriptModule):
        raise UnusableModel(
            "the model is TorchScript, whose layers cannot be changed",
            todo="give the Python module that it was made of, or export it to ONNX and give the file",
        )
    while True:
        if type(given).__module__.startswith("torch._dynamo") and hasattr(given, "_orig_mod"):
            given = given._orig_mod
            notes.append("taken out of torch.compile")
        elif isinstance(given, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            notes.append(f"taken out of {type(given).__name__}")
            given = given.module
        else:
            break
    if given._compiled_call_impl is not None:
        notes.append("taken out of torch.compile")
    tensors = [*given.parameters(), *given.buffers()]
    devices = sorted({str(x.device) for x in tensors} - {"cpu"})
    # Weights that hooks compute hang on the graph of gradients, which cannot be copied; they are computed anew.
    computed = [
        x for child in given.modules() for x in vars(child).values() if isinstance(x, torch.Tensor) and not x.is_leaf
    ]
    try:
        module = copy.deepcopy(given, {id(x): x.detach().clone() for x in computed}).to("cpu").float().eval()
    except Exception as error:  # whatever a module holds says why it cannot be copied
        raise UnusableModel(
            f"the model cannot be copied: {first_line(error)}",
            where=type(given).__qualname__,
            todo="give a function that builds it instead: lambda: Net(...)",
        ) from error
    hooked = [name or "the whole" for name, child in module.named_modules() if _without_hooks(child)]
    if hooked:
        notes.append(f"hooks of {', '.join(hooked[:3])}{', …' if len(hooked) > 3 else ''} left out")
    if devices:
        notes.append(f"copied from {', '.join(devices)} to the CPU")
    if any(x.is_floating_point() and x.dtype != torch.float32 for x in tensors):
        notes.append("its weights are taken in float32")
    if given.training:
        notes.append("it was in training mode, and is taken in evaluation mode")
    module._compiled_call_impl = None
    return module, tuple(notes)


def _without_hooks(module: Any) -> bool:
    """Remove what looks at a module, and keep what it computes its weights with; whether there was any."""
    removed = False
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        hooks = getattr(module, name)
        for key in [key for key, hook in hooks.items() if not type(hook).__module__.startswith(_COMPUTES)]:
            del hooks[key]
            removed = True
    for name in ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"):
        getattr(module, name).clear()
    return removed


def _built(factory: Callable[..., Any], section: Mapping[str, Any], where: str) -> Any:
    """One network of a factory, to look at; the caller's random numbers stay as they are."""
    import torch

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _plain(factory(**section.get("args", {})))[0]
    except UsageError:
        raise
    except Exception as error:  # the caller's code may raise anything
        raise UnusableModel(
            f"the factory fails: {type(error).__name__}: {first_line(error)}",
            where=where,
            todo="give one that can be called without arguments, or 'args' for it",
        ) from error


def _made(
    section: dict[str, Any], module: Any, *, keeps: Any = None, own: Any = None, notes: tuple[str, ...] = ()
) -> Network:
    """What a module's ``forward`` says of the network; ``own``: where its weights are to be taken."""
    import torch

    from mmedge.models.heads import entries

    parameters = inspect.signature(module.forward).parameters
    named = [
        p for name, p in parameters.items() if name != "present" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]

    def call(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {name: torch.from_numpy(np.array(x, order="C")) for name, x in inputs.items()}
        if "present" in parameters:
            batch = len(next(iter(tensors.values())))
            tensors["present"] = torch.ones(batch, len(inputs), dtype=torch.bool)
        with torch.no_grad():
            result = entries(copy.deepcopy(module).eval()(**tensors))
        return {name: x.numpy() for name, x in result.items() if isinstance(x, torch.Tensor)}

    return Network(
        section,
        tuple(p.name for p in named if p.default is p.empty),
        tuple(p.name for p in named if p.default is not p.empty),
        call,
        any_input=any(p.kind is p.VAR_KEYWORD for p in parameters.values()),
        module=own,
        notes=notes,
        keeps=keeps,
    )


def _of_file(file: Path) -> Network:
    """An ONNX file, run by ONNX Runtime."""
    from mmedge.backends import onnxruntime_cpu

    if not file.is_file():
        raise UsageError("the model does not exist", where=str(file), todo="correct the path")
    session = onnxruntime_cpu.session(file)
    presence = session.inputs.get("present")
    own = presence is not None and presence.dtype == np.dtype(bool)

    def call(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = {name: np.asarray(x, session.inputs[name].dtype) for name, x in inputs.items()}
        if own:
            feed["present"] = np.ones((len(next(iter(feed.values()))), len(inputs)), bool)
        try:
            return dict(session(feed))
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise MmedgeError(
                f"the model does not run: {onnxruntime_cpu.message_of(error)}",
                where=str(file),
                todo="look whether the data, or --shape, is right for it",
            ) from error

    return Network(
        {}, tuple(name for name in session.inputs if not (own and name == "present")), (), call, onnx=file.resolve()
    )


def _no_call(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The built-in network is as wide as the data says."""
    return {}


def _digest(module: Any, make: Any) -> str:
    """The hash of a network: its classes' code, its shape and its numbers; of one that is made anew, of what makes it."""
    digest = hashlib.sha256(repr(module).encode())
    for text in (*_sources(module), *(_of_function(make) if make is not None else ())):
        digest.update(text.encode())
    for name, child in module.named_modules():
        plain = {key: value for key, value in vars(child).items() if isinstance(value, (bool, int, float, str, tuple))}
        digest.update(repr((name, sorted(plain.items(), key=lambda item: item[0]))).encode())
    for name, x in module.state_dict().items() if make is None else ():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(x.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _sources(module: Any) -> Iterator[str]:
    """The code of every class of the caller's that a network is made of."""
    for kind in sorted({type(child) for child in module.modules()}, key=lambda kind: kind.__qualname__):
        if kind.__module__.partition(".")[0] != "torch":
            yield _code(kind, kind.forward)


def _of_function(make: Any) -> Iterator[str]:
    """The code of what makes a network, and what it was defined with."""
    yield _code(make, getattr(make, "__init__", make))
    for cell in getattr(make, "__closure__", None) or ():
        yield repr(cell.cell_contents) if isinstance(cell.cell_contents, (bool, int, float, str, tuple, list)) else ""
    yield repr(getattr(make, "__defaults__", None))


def _code(found: Any, fallback: Any) -> str:
    try:
        return inspect.getsource(found)
    except (OSError, TypeError):  # typed at a prompt
        code = getattr(fallback, "__code__", None)
        return repr((code.co_code, code.co_consts)) if code else repr(found)


def _word(name: str) -> str:
    return "".join(character for character in name if character.isidentifier() or character.isdigit()) or "network"


def _article(given: Any) -> str:
    kind = type(given)
    return f"{'an' if kind.__name__[0].lower() in 'aeiou' else 'a'} {kind.__module__.partition('.')[0]}.{kind.__name__}".replace(
        "builtins.", ""
    )
