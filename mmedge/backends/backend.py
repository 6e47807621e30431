"""What a backend is: the file of one kind of engine gives one ``Backend``, and these are what its functions take and give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from mmedge.backends.engine import Engine, Profiles
from mmedge.backends.missing import Missing
from mmedge.backends.session import Session
from mmedge.frozen import Frozen

Precision = Literal["fp32", "fp16", "int8"]


class Options(Frozen):
    """How an engine is built, on any target."""

    precision: Precision | None = Field(
        None, description="Taken instead of the fastest, or where the backend cannot be run here."
    )
    max_batch: int = Field(8, ge=1, description="The largest batch that the engine is built for.")
    best_batch: int = Field(1, ge=1, description="The batch that it is optimised for.")
    required: bool = Field(
        True,
        description="Where false, the engine is left out, with a note, where the backend's package is not installed.",
    )

    # Keys of other backends' options that a recipe of version 0.1 may hold here: they have no meaning.
    _unheeded: tuple[str, ...] = PrivateAttr(())

    @property
    def unheeded(self) -> tuple[str, ...]:
        """The keys that were given and mean something to other backends alone."""
        return self._unheeded

    def leaving(self, keys: Iterable[str]) -> Options:
        """These options, with the keys that were given beside them and are not heeded."""
        same = self.model_copy()
        same._unheeded = tuple(keys)
        return same

    @model_validator(mode="after")
    def _batches_in_order(self) -> Options:
        if self.best_batch > self.max_batch:
            raise ValueError(f"'best_batch' ({self.best_batch}) is above 'max_batch' ({self.max_batch})")
        return self


@dataclass(frozen=True)
class Opening:
    """How a model is opened. ``providers``: ONNX Runtime's own, with their options, instead of the backend's.

    ``host_code``: whether an engine may run code that it brings along: one that was built here, or is signed.
    ``timeout_s``: what opening it, and each run, may take.
    """

    threads: int = 1
    providers: Sequence[Any] | None = None
    host_code: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True)
class Job:
    """An engine to build of ``graph``, beside it, in a file whose name begins with ``stem``.

    ``precision``: what the engine must compute in, raising MismatchError where it does not; None: whatever the graph has.
    ``timings``: a file where the builder may keep what it has measured, for the next build.
    """

    graph: Path
    stem: str
    profiles: Profiles
    options: Options
    precision: str | None = None
    timings: Path | None = None


@dataclass(frozen=True)
class LayerTime:
    """A layer as it ran: its mean time, and the modality that it serves, or ``fusion``."""

    name: str
    kind: str
    branch: str
    mean_us: float


@dataclass(frozen=True)
class LayerTimes:
    """The layers in order, and what their times are, in words. The profiler takes time too: the shares are to be believed."""

    layers: list[LayerTime]
    basis: str


@dataclass(frozen=True)
class Backend:
    """One kind of engine: how it is built, opened and timed, and what it lacks. The row of ``BACKENDS`` names its file.

    ``open``: a file, or the content of a graph. ``layer_times(file, inputs, threads, runs)``. ``build``: None where it runs an ONNX graph as it is.
    ``missing_to_run``, ``missing_to_build``: what this machine lacks; empty where it is ready. ``lacks``: {precision, or
    a candidate of one: why, and what to take instead}. ``runs_graphs``: whether it opens an ONNX graph, too, so that
    engines of subsets and parts need no building. ``gpu``: it computes on a GPU. ``symmetric``: its INT8 graphs have
    symmetric codes alone. ``sparse``: it skips zeros of 2:4 sparsity. ``belongs(engine)``: why an engine is not of this machine, None where it is, as far as its
    entry tells.
    """

    name: str
    open: Callable[[Path | bytes, Opening], Session]
    layer_times: Callable[[Path, Mapping[str, np.ndarray], int, int], LayerTimes]
    missing_to_run: Callable[[], list[Missing]]
    missing_to_build: Callable[[], list[Missing]] = list
    build: Callable[[Job], Engine] | None = None
    options: type[Options] = Options
    lacks: Mapping[str, str] = field(default_factory=dict)
    runs_graphs: bool = True
    takes_providers: bool = False
    takes_timeout: bool = False
    gpu: bool = False
    symmetric: bool = False
    sparse: bool = False
    belongs: Callable[[Engine], str | None] = lambda engine: None
