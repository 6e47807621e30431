"""Weights of a pretrained encoder, from safetensors and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import nn

from mmedge.errors import UsageError
from mmedge.models.state import load_state, read_state


def load_into(module: nn.Module, path: Path | None, *, without: str | Collection[str] = ()) -> None:
    """Load a file into ``module``. ``without``: layers that the file may hold and the module has not, as a classifier.

    Raises UsageError for a file that is not safetensors, and MmedgeError where the names do not agree.
    """
    if path is None:
        raise UsageError("no 'weights' are named, and without them nothing has been learnt", todo="weights: FILE")
    if not path.is_file():
        raise UsageError("the weights file does not exist", where=str(path))
    if path.suffix.lower() != ".safetensors":
        raise UsageError(
            "the weights are not safetensors, and mmedge unpickles none of an encoder's",
            where=str(path),
            todo=f"python -m mmedge.models.pretrained.convert {path.name} {path.stem}.safetensors",
        )
    state = read_state(path)
    left = (without,) if isinstance(without, str) else tuple(without)
    load_state(
        module, {name: x for name, x in state.items() if not name.startswith(tuple(f"{n}." for n in left))}, path
    )
