"""Weights of files: read without unpickling anything, given to a network whose names they match, and made ready to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmedge.errors import MmedgeError, UsageError

_SAVE_WEIGHTS = "save module.state_dict() as safetensors"


def load_weights(module: nn.Module, path: Path) -> None:
    """Load safetensors, or a checkpoint that ``torch.load(weights_only=True)`` accepts; see ``read_state`` and ``load_state``."""
    load_state(module, read_state(path), path)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state_dict of a file: safetensors, or what ``torch.load(weights_only=True)`` accepts.

    That is a state_dict, or one under ``state_dict``, ``model_state_dict`` or ``model``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise MmedgeError("the weights file does not exist", where=str(path))
    try:
        state = (
            load_file(path)
            if path.suffix.lower() == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        reason = (str(error) or "the file ends too early").splitlines()[0]
        raise MmedgeError(f"the weights cannot be read: {reason}", where=str(path)) from error
    except Exception as error:  # torch raises pickle.UnpicklingError, whose module is not to be imported for that
        raise MmedgeError(
            "the checkpoint holds more than weights, and mmedge unpickles nothing",
            where=str(path),
            todo=_SAVE_WEIGHTS,
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict):
        raise MmedgeError(
            f"the file holds a {type(state).__name__}, not a state_dict", where=str(path), todo=_SAVE_WEIGHTS
        )
    return state


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a file's tensors; every name must match, but for one prefix of all (DataParallel's ``module.``, a wrapper)."""
    names = list(module.state_dict())
    state = _with_names(state, names)
    lacking, strange = [n for n in names if n not in state], [str(n) for n in state if n not in names]
    if lacking or strange:
        raise MmedgeError(
            f"the weights do not fit the model: the file lacks {_few(lacking)}, and has {_few(strange)} that the model has not",
            where=str(path),
            todo="build the model with the args that it was trained with, or rename what the file holds",
        )
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise MmedgeError(
            f"the weights do not fit the model: {' '.join(lines[1:2]) or lines[0]}", where=str(path)
        ) from error


def _with_names(state: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """``state`` without the one prefix, or with the one, that makes its names those of the module; else as it is."""
    if not state or not names or len(state) != len(names) or set(state) == set(names):
        return state
    stored, own = min(map(str, state)), min(names)
    for longer, shorter in ((stored, own), (own, stored)):
        prefix = longer.removesuffix(shorter)
        if prefix != longer and prefix.endswith("."):
            renamed = {
                (str(n).removeprefix(prefix) if longer is stored else f"{prefix}{n}"): x for n, x in state.items()
            }
            return renamed if set(renamed) == set(names) else state
    return state


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} weights ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else "none"


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: on the CPU, and copied where one shares the memory of another, as tied weights do."""
    found, taken = {}, set()
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            what = (
                f"the network's state holds {name!r}, a {type(value).__name__}: a file of weights holds tensors alone"
            )
            raise UsageError(what, todo="keep it in a buffer, or build it from the factory's arguments")
        kept = value.detach().contiguous().cpu()
        memory = kept.untyped_storage().data_ptr()
        found[name] = kept.clone() if memory in taken else kept
        taken.add(memory)
    return found
