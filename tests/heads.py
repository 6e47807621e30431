"""Samples, batches and figures of a model with one head, whose name need not be said at each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.tasks import Head

CLASSES = Head(task="classification", labels=("a", "b", "c"))


def samples(*given: Any, head: Head = CLASSES, name: str = "logits") -> Samples:
    """``Samples(split, ids, inputs, present, targets, groups)`` of one head's targets, classes unless another is told."""
    split, ids, inputs, present, targets, groups = given
    return Samples(split, ids, inputs, present, {name: np.asarray(targets)}, groups, {name: head})


def of_one(contract: Contract, *arrays: np.ndarray) -> list[Mapping[str, np.ndarray]]:
    """Each array as that of the contract's one head."""
    (name,) = contract.heads
    return [{name: np.asarray(array)} for array in arrays]
