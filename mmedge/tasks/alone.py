"""What tasks share whose rows are judged each by itself."""

from __future__ import annotations

import math

import numpy as np

from mmedge.tasks.head import Head


def grouped(targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The targets: groups, int64 [N], say nothing of them."""
    return targets


def placed(output: np.ndarray, gallery: np.ndarray, targets: np.ndarray, head: Head) -> np.ndarray:
    """The outputs, which are judged as they are."""
    return output


def further(name: str, output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    """NaN: what there is, ``others`` tells."""
    return math.nan


def parts(head: Head) -> tuple[str, ...]:
    """None: figures are of the whole."""
    return ()


def errors(output: np.ndarray, targets: np.ndarray, head: Head) -> np.ndarray:
    """Zeros [N]: what is no number is not so far from another."""
    return np.zeros(len(output))
