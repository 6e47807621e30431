"""A graph that gives other outputs each time, as one that was exported in training mode does, can be neither judged nor learnt from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import UsageError

# Of an output, over its largest: threads add up in another order, chance changes far more.
_SAME = 1e-3


def refuse_chance(
    run: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]],
    inputs: Mapping[str, np.ndarray],
    source: Path,
    before: Mapping[str, Any] | None = None,
) -> None:
    """Run a graph twice on ``inputs``; raises UsageError at ``source`` where its outputs differ. ``before``: those of a first run."""
    first, second = before or run(inputs), run(inputs)
    for name, value in first.items():
        if isinstance(value, np.ndarray) and not _alike(value, np.asarray(second[name])):
            raise UsageError(
                f"the output {name!r} is another each time for the same inputs: the graph draws by chance",
                where=str(source),
                todo="export it in evaluation mode, model.eval(), so that no dropout and no noise is in it",
            )


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape or one.dtype.kind != "f":
        return np.array_equal(one, other)
    scale = max(1e-6, float(np.abs(one[np.isfinite(one)]).max(initial=0)))
    return np.allclose(one, other, rtol=0, atol=_SAME * scale, equal_nan=True)
