"""What a caller of this process gave as an object: held under a name that no module can have, so that a recipe can name it."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from mmedge.errors import UsageError

# Stands where the name of a module would: no file can be imported by it.
OBJECT = "<object>"
# Let go of with the last result that goes on from it: a notebook must not keep every data set that it ever used.
_held: WeakValueDictionary[str, Any] = WeakValueDictionary()


def hold(kind: str, digest: str, given: Any) -> str:
    """The name of an object, as ``module:attribute`` in a recipe; ``digest``, the hash of what it is, makes it a cache key.

    The caller keeps ``given`` alive for as long as the name is used.
    """
    name = f"{OBJECT}:{kind}-{digest[:16]}"
    _held[name] = given
    return name


def hold_as(name: str, given: Any) -> None:
    """Hold an object under the name that another process gave to its like."""
    _held[name] = given


def is_object(name: str) -> bool:
    """Whether a name is one of ``hold``'s."""
    return name.partition(":")[0] == OBJECT


def held(name: str) -> Any:
    """The object of a name; raises UsageError where this process was not given it."""
    found = _held.get(name)
    if found is None:
        raise UsageError(
            f"{name.partition(':')[2]} was given as an object, and this process does not have it",
            where=name,
            todo="mmedge.Model.load(folder, factory=…) with what builds the network; or go on from the folder's model.onnx, which needs no code",
        )
    return found
