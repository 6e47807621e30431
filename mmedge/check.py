"""Looks at a recipe's data and models before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmedge.data import samples
from mmedge.progress import Progress
from mmedge.recipe import Recipe
from mmedge.training.context import Context


def check(recipe: Recipe, out: Path, *, code: Path, progress: Progress) -> dict[str, Any]:
    """Prepare the data into ``out``, build both models, run one batch through each, and return the data card.

    Raises the MmedgeError of the first fault.
    """
    dataset = samples.prepare(recipe, out, code=code, progress=progress)
    context = Context(recipe, dataset, out / ".work", code, progress)
    for section in (recipe.teacher.model, recipe.distill and recipe.distill.model):
        if section:
            context.build(section, context.contract(section))
    return {
        "recipe": recipe.name,
        "source": dataset.source,
        "modalities": {name: list(spec.shape) for name, spec in dataset.contract.modalities.items()},
        "labels": list(dataset.contract.labels),
        "splits": {split.split: _card(split, dataset) for split in (dataset.train, dataset.validation, dataset.test)},
    }


def _card(split: samples.Samples, dataset: samples.Dataset) -> dict[str, Any]:
    card: dict[str, Any] = {
        "samples": len(split),
        "labelled": int(split.labelled.sum()),
        "groups": len(np.unique(split.groups)),
        "present": {name: int(split.present[:, index].sum()) for index, name in enumerate(split.inputs)},
    }
    if dataset.contract.labels:
        counts = np.bincount(split.targets[split.targets >= 0], minlength=len(dataset.contract.labels))
        card["classes"] = dict(zip(dataset.contract.labels, counts.tolist()))
    return card
