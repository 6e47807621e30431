"""What every target gives: an opened model that runs, and says what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class TensorInfo:
    """An input: its dtype, and its shape with None where an axis is dynamic."""

    dtype: np.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Session:
    """A model ready to run, from any thread. ``run({input: array}) -> {output: array}``.

    ``native``: the target's own object behind it. ``parts``: on a GPU, the milliseconds of the last run by
    ``host_to_device``, ``compute`` and ``device_to_host``. ``checked``: ``run`` without what the target checks in
    Python, for inputs whose names, dtypes and shapes the caller has checked; None where that is nothing. ``led``: of what
    writes texts, ``(inputs, texts) ->`` how likely each token of given texts is to it, see ``backends.writing``.
    """

    run: Run
    inputs: Mapping[str, TensorInfo]
    native: Any
    parts: Callable[[], dict[str, float]] | None = None
    checked: Run | None = None
    led: Callable[[Mapping[str, np.ndarray], np.ndarray], dict[str, np.ndarray]] | None = None

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.run(inputs)
