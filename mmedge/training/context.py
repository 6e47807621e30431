"""What a stage is given beside its parent and its own section of the recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.artifact import Artifact
from mmedge.contract import Contract
from mmedge.data.store.samples import Dataset
from mmedge.progress import Progress
from mmedge.recipe import Model, Recipe, TeacherConfig
from mmedge.recipe.code import code_of_artifact, load_attribute, refuse_foreign
from mmedge.tracking import Log, Tracking

if TYPE_CHECKING:  # a run that computes nothing does not wait for torch
    from torch import nn

# Samples that are read together.
_ROWS = 64


@dataclass(frozen=True)
class Context:
    """``out``: the run's folder; ``code``: where a user's modules are imported from; ``tracking``: what follows the run.

    Of the stage at work: ``stage``, its name; ``part``, the backend that an export is for, else empty; ``key``, its cache
    key; ``command``, what was typed, if anything was; ``teacher``, the artifact that teaches (absent while the teacher itself is trained). Stages choose by
    ``dataset.train`` and ``dataset.validation`` only.
    """

    recipe: Recipe
    dataset: Dataset
    out: Path
    code: Path
    progress: Progress
    teacher: Artifact | None = None
    stage: str = ""
    part: str = ""
    key: str = ""
    command: tuple[str, ...] = ()
    tracking: Tracking = field(default_factory=Tracking)

    def build(self, section: Model, contract: Contract) -> nn.Module:
        """A fresh model of a recipe's section, checked against the contract."""
        from mmedge.models import load

        module = load.build(section, contract, factory=self.factory(section), means=self.means(contract))
        load.check_forward(module, contract, section.factory or "the built-in network")
        return module

    def rebuild(self, artifact: Artifact, folder: str = "") -> nn.Module:
        """The model of an artifact, or of one of its folders, in evaluation mode."""
        from mmedge.models import load

        refuse_foreign(code_of_artifact(artifact, self.recipe), str(artifact.path))
        return load.rebuild(
            artifact,
            self.factory(Model.model_validate(artifact.meta.get("model", {}))),
            f"{folder}/{load.WEIGHTS}".lstrip("/"),
        )

    @property
    def work(self) -> Path:
        """A folder for what the interrupted stage needs to go on; it is removed when the stage is done."""
        return self.out / ".work" / f"{self.stage}-{self.key[:16]}"

    @property
    def folder(self) -> Path:
        """Where the stage writes the files of its artifact."""
        return self.work / "made"

    def log(self, training: str) -> Log:
        """Where the epochs of one of the stage's trainings are told."""
        return self.tracking.log(f"{self.stage}/{training}")

    def factory(self, section: Model) -> Any:
        return load_attribute(section.factory, self.code) if section.factory else None

    def contract(self, section: Model) -> Contract:
        """The data's contract, or the part of it that the model takes."""
        whole = self.dataset.contract
        own = whole.only(section.modalities) if section.modalities else whole
        return own.with_dimensions(section.dimensions)

    def preprocessed_for(self, section: TeacherConfig) -> Context:
        """This context with the samples as a teacher of the recipe's section sees them: under its own preprocessing."""
        specs = {**self.dataset.contract.modalities, **section.preprocessing}
        return replace(self, dataset=self.dataset.preprocessed(specs, self.progress))

    def means(self, contract: Contract) -> dict[str, np.ndarray]:
        """{modality: float32 [*shape]}: training means, which stand in for an absent input of a foreign model."""
        train = self.dataset.train.only(tuple(contract.modalities))
        found = {}
        for index, (name, x) in enumerate(train.inputs.items()):
            rows = np.flatnonzero(train.present[:, index])
            total = np.zeros(x.shape[1:])
            for start in range(0, len(rows), _ROWS):
                for sample in x[rows[start : start + _ROWS]]:
                    total += sample
            found[name] = (total / max(1, len(rows))).astype(np.float32)
        return found
