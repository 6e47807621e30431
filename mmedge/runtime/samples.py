"""Raw values by modality, as an app gives them, as samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.contract import Contract
from mmedge.errors import UsageError, did_you_mean
from mmedge.spec import ModalitySpec, TabularSpec


def samples_of(contract: Contract, values: Mapping[str, Any]) -> tuple[list[dict[str, object]], bool]:
    """(the samples, each {modality: value}; whether lists of them are given) of raw values by modality.

    None is missing. Raises UsageError for a modality that there is not, and for lists of different lengths.
    """
    unknown = values.keys() - contract.modalities.keys()
    if unknown:
        raise unknown_modality(contract, unknown)
    given = {name: value for name, value in values.items() if value is not None}
    batched = {name for name, value in given.items() if _is_batch(contract.modalities[name], value)}
    if batched and batched != given.keys():
        raise UsageError(f"either every modality is a list or none; {', '.join(sorted(given.keys() - batched))} is not")
    if not batched:
        return [given], False
    sizes = {name: len(given[name]) for name in batched}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise UsageError(f"the lists must be of one length, at least 1, not {sizes}")
    rows = range(next(iter(sizes.values())))
    return [{name: x for name in given if (x := given[name][row]) is not None} for row in rows], True


def unknown_modality(contract: Contract, names: Iterable[object]) -> UsageError:
    """The error of names that are no modalities of the bundle."""
    name, known = min(map(str, names)), contract.modalities
    return UsageError(f"the bundle has no modality {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}")


def _is_batch(spec: ModalitySpec, value: Any) -> bool:
    if not isinstance(value, list):
        return False
    if isinstance(spec, TabularSpec):  # a plain list of cells, words and None among them, is one sample
        return not value or any(isinstance(row, (list, tuple, dict, np.ndarray)) for row in value)
    # A plain list of numbers is one array.
    return (
        spec.kind != "array"
        or not value
        or isinstance(value[0], (list, tuple, dict, np.ndarray, str, Path, type(None)))
    )
