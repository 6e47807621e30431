"""Frozen parts of a network are run once for each input that they get in a training, and read from files afterwards."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from mmedge.artifact import remembered
from mmedge.leftovers import removed_when_done

# What one sample's outputs may take: beyond that they are maps in the midst of a network, whose files would not be faster.
_LARGEST = 1 << 20
# Bytes of input that a part is run on at a time: its maps inside are some ten to a hundred times as large.
_CHUNK = 4 << 20
# The share of the free disk space that the files may take.
_DISK = 0.5
# Samples that a part is first tried on.
_TRIED = 4
# How many times as many inputs as there are samples a part may get: one for each picture of a pair, say.
_MORE = 4
_HASH = 16


def frozen_in(module: nn.Module) -> tuple[dict[str, nn.Module], list[str]]:
    """({name: a part that cannot change while ``module`` trains, with all inside it}, names of those kept from it by their mode).

    A part cannot change where it has parameters, none is trained, and everything in it is in evaluation mode while
    ``module`` is in training mode. What does have parameters and trains none of them, but is in training mode, drops
    and counts as training does: it is left alone. Layers by themselves are too small to be worth it.
    """
    found: dict[str, nn.Module] = {}
    moving = []
    for name, part in module.named_modules():
        weights = list(part.parameters())
        if name and weights and any(part.children()) and not any(p.requires_grad for p in weights):
            if not any(inner.training for inner in part.modules()):
                found[name] = part
            else:
                moving.append(name)
    return found, [name for name in moving if not any(name.startswith(f"{outer}.") for outer in moving)]


@contextmanager
def computed_once(module: nn.Module, folder: Path, inputs: int) -> Iterator[list[str]]:
    """Within the block each frozen part of ``module`` is run once for each sample and view, and its outputs are read again.

    Gives notes, complete when the block ends. A row of a part's input is known by its content, so that it does not
    matter where it comes from: a view of a sample, what stands in for an absent one, a validation sample. What a part
    gives must depend on each row alone, which is tried; its methods are followed as well as its ``forward``, since
    frozen networks are often asked for features. ``folder`` keeps the outputs, for the same training after a kill: it
    then reads what it read, and ends with the same weights. ``inputs``: how many different ones a part can get, 0 where
    none comes again; of a part that gets far more, nothing more is kept.
    """
    module.train()
    parts, moving = frozen_in(module) if inputs else ({}, [])
    notes = [
        f"{name} trains nothing and is in training mode: it is run at every step; keep it in eval() to have it run once"
        for name in moving
    ]
    stores: list[_Part] = []
    try:
        with removed_when_done(folder), _kept(parts, folder, _MORE * inputs) as stores:
            yield notes
    finally:
        kept = [store for store in stores if store.kept]
        notes += [f"{store.name} is frozen, and was run once for each of {store.rows:,} inputs" for store in kept]


@contextmanager
def parts_reused(module: nn.Module, folder: Path, inputs: int) -> Iterator[None]:
    """Within the block each part of a network in evaluation mode, of which nothing is trained, is run once for each input.

    ``folder`` keeps what they gave, for the next block: a part whose modality is the same in all views is run for one of
    them. ``inputs``: as of ``computed_once``.
    """
    with _kept(frozen_in(module)[0], folder, _MORE * inputs):
        yield


@contextmanager
def _kept(parts: Mapping[str, nn.Module], folder: Path, most: int) -> Iterator[list[_Part]]:
    """What the parts give within the block is kept in ``folder``, and read where it lies there already; of more than ``most`` inputs nothing."""
    stores: list[_Part] = []
    guard = _Guard()
    replaced: list[tuple[nn.Module, str, Any]] = []
    for name, part in parts.items():
        if any(inner._forward_hooks or inner._forward_pre_hooks for inner in part.modules()):
            continue  # somebody listens inside, and would hear nothing
        for method in ["forward", *_methods(part)]:
            store = _Part(f"{name}.{method}", getattr(part, method), folder, most, guard)
            stores.append(store)
            replaced.append((part, method, part.__dict__.get(method)))
            part.__dict__[method] = store
    try:
        yield stores
    finally:
        for part, method, before in reversed(replaced):
            if before is None:
                del part.__dict__[method]
            else:
                part.__dict__[method] = before
        for store in stores:
            store.close()


def _methods(part: nn.Module) -> list[str]:
    """The public methods of a network's own classes, such as ``get_image_features``."""
    own = [kind for kind in type(part).__mro__ if kind.__module__.partition(".")[0] != "torch"]
    names = {name for kind in own for name, value in vars(kind).items() if inspect.isfunction(value)}
    return sorted(name for name in names if not name.startswith("_") and not hasattr(nn.Module, name))


@dataclass
class _Guard:
    """Whether a part is at work: what it calls of its own is run as it is."""

    busy: bool = False


@dataclass(frozen=True)
class _Layout:
    """One row of what a part gives: ``leaves``, [(shape, dtype)] of its tensors, or what is no tensor; ``spec``, their tree."""

    leaves: list[Any]
    spec: Any

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(dtype.itemsize * shape.numel() for shape, dtype in self.tensors)

    @property
    def tensors(self) -> list[tuple[torch.Size, torch.dtype]]:
        return [leaf for leaf in self.leaves if isinstance(leaf, tuple)]

    def read(self, rows: Tensor, device: torch.device) -> Any:
        """``rows``: uint8 [batch, size], as what the part gives for them."""
        place, out = 0, []
        for leaf in self.leaves:
            if not isinstance(leaf, tuple):
                out.append(leaf)
                continue
            shape, dtype = leaf
            end = place + dtype.itemsize * shape.numel()
            out.append(rows[:, place:end].contiguous().view(dtype).reshape(len(rows), *shape).to(device))
            place = end
        return _pytree.tree_unflatten(out, self.spec)


@dataclass
class _Call:
    """A call of a part: ``leaves`` of its arguments, of which ``by_row`` have a row a sample, and the tree that they are of."""

    leaves: list[Any]
    spec: Any
    by_row: list[int]

    @property
    def count(self) -> int:
        return len(self.leaves[self.by_row[0]])

    @property
    def row_bytes(self) -> int:
        return sum(self.leaves[n].element_size() * self.leaves[n][0].numel() for n in self.by_row)

    def of(self, rows: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with some of the rows alone."""
        chosen = torch.tensor(rows)
        leaves = [x[chosen.to(x.device)] if n in self.by_row else x for n, x in enumerate(self.leaves)]
        args, kwargs = _pytree.tree_unflatten(leaves, self.spec)
        return args, kwargs

    def digests(self, more: object) -> list[bytes]:
        """What each row is known by: the content of its tensors, and of all else that the part is given."""
        shared = hashlib.blake2b(repr(more).encode(), digest_size=_HASH)
        for n, x in enumerate(self.leaves):
            if isinstance(x, Tensor):
                shared.update(repr((x.dtype, x.shape[1:] if n in self.by_row else x.shape)).encode())
                if n not in self.by_row:
                    shared.update(_bytes(x.reshape(1, -1)).numpy().data)
            else:
                shared.update(repr(x).encode())
        found = []
        arrays = [_bytes(self.leaves[n]).numpy() for n in self.by_row]
        for row in range(self.count):
            one = shared.copy()
            for array in arrays:
                one.update(array[row].data)
            found.append(one.digest())
        return found


class _Part:
    """A method of a frozen part, with what it gave so far."""

    def __init__(self, name: str, run: Callable[..., Any], folder: Path, most: int, guard: _Guard) -> None:
        functools.update_wrapper(self, run)  # transformers look at the signature of a forward
        self.name, self._run, self._most, self._guard = name, run, most, guard
        self._base = folder / hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        self.kept: bool | None = None
        self._known: dict[bytes, int] = {}
        self._layout: _Layout | None = None
        self._by_row: list[int] | None = None
        self._data = self._index = -1
        self._room = 0

    @property
    def rows(self) -> int:
        """How many inputs are known."""
        return len(self._known)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._guard.busy or self.kept is False:
            return self._run(*args, **kwargs)
        call = self._call(args, kwargs)
        if call is None:
            return self._run(*args, **kwargs)
        self._guard.busy = True
        try:
            if self.kept is None:
                self.kept = self._worth_it(call)
            given = self._given(call) if self.kept else None
        finally:
            self._guard.busy = False
        return self._run(*args, **kwargs) if given is None else given

    def close(self) -> None:
        for number in (self._data, self._index):
            if number >= 0:
                os.close(number)

    def _call(self, args: Any, kwargs: Any) -> _Call | None:
        """What the part is called with; None where that cannot be known again."""
        leaves, spec = _pytree.tree_flatten((args, kwargs))
        tensors = [n for n, x in enumerate(leaves) if isinstance(x, Tensor)]
        plain = all(isinstance(x, (Tensor, int, float, bool, str, torch.dtype, type(None))) for x in leaves)
        if any(leaves[n].requires_grad for n in tensors):
            # What is trained lies before it, as LoRA's matrices: in validation, too, nothing that it gets comes again.
            self.kept = False
            return None
        if not tensors or not plain or not leaves[tensors[0]].dim():
            return None
        count = len(leaves[tensors[0]])
        by_row = [n for n in tensors if leaves[n].dim() and len(leaves[n]) == count and leaves[n].numel()]
        if not count or not by_row:
            return None
        return _Call(leaves, spec, by_row)

    def _worth_it(self, call: _Call) -> bool:
        """Whether a row's output depends on nothing else, and is read faster than it is computed. Tried once a training."""
        tried = list(range(min(_TRIED, call.count)))
        together, layout = self._computed(call, tried)
        if layout is None or together is None or layout.size > _LARGEST or not layout.size:
            return False
        alone = self._computed(call, [0])[0]
        same = alone is not None and len(alone) == 1 and _close(layout, together[:1], alone)

        def decide() -> bool:
            began = time.perf_counter()
            self._computed(call, tried)
            computing = time.perf_counter() - began
            few = _Call([x[tried] if n in call.by_row else x for n, x in enumerate(call.leaves)], None, call.by_row)
            began = time.perf_counter()
            few.digests("")
            layout.read(together.clone(), torch.device("cpu"))
            return computing > 2 * (time.perf_counter() - began)

        self._base.parent.mkdir(parents=True, exist_ok=True)
        if not same or not remembered(self._base.with_suffix(".json"), decide):
            return False
        self._layout, self._by_row = layout, call.by_row
        flags = os.O_RDWR | os.O_CREAT
        self._data, self._index = (os.open(self._base.with_suffix(end), flags, 0o600) for end in (".rows", ".index"))
        # A killed process may have written rows that its index does not name yet: they are written over.
        index = os.pread(self._index, os.fstat(self._index).st_size, 0)
        self._known = {index[at : at + _HASH]: at // _HASH for at in range(0, len(index) - _HASH + 1, _HASH)}
        self._room = int(_DISK * shutil.disk_usage(self._base.parent).free)
        return True

    def _given(self, call: _Call) -> Any | None:
        """What the part gives: known rows as they were read, the others computed and kept; None where it gives another form."""
        layout = self._layout
        assert layout is not None
        device = call.leaves[call.by_row[0]].device
        kind = device.type
        mode = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else ""
        digests = call.digests(mode)
        if call.by_row != self._by_row:
            return None
        first = {digest: row for row, digest in reversed(list(enumerate(digests)))}
        new = sorted(row for digest, row in first.items() if digest not in self._known)
        if self._room < len(new) * layout.size:
            return None
        if len(self._known) + len(new) > self._most:  # they do not come again
            self.kept = False
            return None
        step = max(1, _CHUNK // call.row_bytes)
        for start in range(0, len(new), step):
            rows = new[start : start + step]
            values, form = self._computed(call, rows)
            if values is None or form != layout:
                return None
            self._keep([digests[row] for row in rows], values)
        out = torch.empty(call.count, layout.size, dtype=torch.uint8)
        buffer = out.numpy()
        for row, digest in enumerate(digests):
            os.preadv(self._data, [buffer[row].data], self._known[digest] * layout.size)
        return layout.read(out, device)

    def _computed(self, call: _Call, rows: list[int]) -> tuple[Tensor | None, _Layout | None]:
        """(uint8 [rows, size], their layout) of some rows, run by themselves; None twice where it has no row a sample."""
        args, kwargs = call.of(rows)
        with torch.no_grad():
            leaves, spec = _pytree.tree_flatten(self._run(*args, **kwargs))
        if any(isinstance(x, Tensor) and (not x.dim() or len(x) != len(rows)) for x in leaves):
            return None, None
        layout = _Layout([(x.shape[1:], x.dtype) if isinstance(x, Tensor) else x for x in leaves], spec)
        parts = [_bytes(x) for x in leaves if isinstance(x, Tensor)]
        return (torch.cat(parts, dim=1), layout) if parts else (None, None)

    def _keep(self, digests: list[bytes], values: Tensor) -> None:
        size = values.shape[1]
        os.pwrite(self._data, values.numpy().data, len(self._known) * size)
        os.pwrite(self._index, b"".join(digests), len(self._known) * _HASH)
        for digest in digests:
            self._known[digest] = len(self._known)
        self._room -= values.numel()


def _bytes(x: Tensor) -> Tensor:
    """uint8 [rows, bytes] of any tensor [rows, ...]."""
    flat = x.detach().cpu().contiguous().reshape(len(x), -1)
    return flat.view(torch.uint8)


def _close(layout: _Layout, one: Tensor, other: Tensor) -> bool:
    """Whether two rows hold the same values but for the last digits."""
    cpu = torch.device("cpu")
    pairs = zip(*(_pytree.tree_leaves(layout.read(x, cpu)) for x in (one, other)))
    return all(
        torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4 * max(1e-12, float(a.double().abs().max())))
        for a, b in pairs
        if isinstance(a, Tensor)
    )
