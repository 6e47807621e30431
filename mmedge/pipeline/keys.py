"""The cache key of a stage: a hash of all that its outcome depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmedge import hub
from mmedge.artifact import MANIFEST, Artifact, code_hash, hash_json, read
from mmedge.frozen import Frozen
from mmedge.pipeline.stages import Step
from mmedge.recipe import Model
from mmedge.recipe.dependencies import code_state, file_state, path_state
from mmedge.training.context import Context

# What a stage's outcome may depend on, beside its own file.
CODE = (
    "data",
    "models",
    "training",
    "graph",
    "measure",
    "gate.py",
    "backends",
    "machine.py",
    "tasks",
    "preprocess",
    "tokenizer.py",
    "profiling/energy.py",
    "profiling/timing.py",
    "runtime/rows.py",
    "contract.py",
    "recipe/augment.py",  # what a preset's name stands for
    "recipe/pretraining.py",
    "spec",
    "stages/preference.py",
    "stages/trained.py",
)


def key_of(step: Step, parent: Artifact | None, teacher: Artifact | None, context: Context) -> str:
    """Hash of parent, configuration, seed, data, code and model files."""
    recipe = context.recipe
    sections = (step.config, *step.row.depends_on(recipe))
    # A teacher that was given is built by code that may have changed since.
    built = (*sections, *([recipe.teacher] if teacher and step.row.taught else []))
    return hash_json(
        {
            "stage": step.name,
            "parent": parent and parent.sha256,
            "teacher": teacher.sha256 if teacher and step.row.taught else None,
            "config": [
                *map(_dumped, sections),
                _dumped(recipe.data.model_copy(update={"workers": None, "batch_workers": None})),
                recipe.seed,
            ],
            "data": context.dataset.sha256,
            "code": [code_hash(*CODE, step.row.file), [_user_code(section, context) for section in built]],
            "weights": [digest for section in sections for digest in _weights(section)],
        }
    )


def _dumped(section: Any) -> Any:
    return section.model_dump(mode="json") if isinstance(section, Frozen) else section


def _givens(section: Any) -> list[Any]:
    """The models that a section describes: its own, and those of further teachers."""
    return [section, *getattr(section, "teachers", ())]


def _user_code(section: Any, context: Context) -> list[str]:
    """Hashes of what a user's factories depend on, those of further teachers' artifacts too."""
    models = []
    for given in _givens(section):
        models.append(getattr(given, "model", None))
        folder = getattr(given, "artifact", None)
        if folder and (folder / MANIFEST).is_file():
            models.append(Model.model_validate(read(folder).meta.get("model", {})))
    named = [model for model in models if model and model.factory]
    return [code_state(model.factory, model.args, context.code, context.progress.say) for model in named]


def _weights(section: Any) -> list[str]:
    """Hashes of the model files and the folders of sounds that a section names, those of pretrained encoders too."""
    named: list[Path] = []
    for given in _givens(section):
        named += getattr(given, "files", [getattr(getattr(given, "model", None), "weights", None)])
    models = [getattr(given, "model", None) for given in _givens(section)]
    encoders = [encoder for model in models if model for encoder in model.pretrained.values()]
    folders = [hub.folder_of(encoder.hf) for encoder in encoders if encoder.hf is not None]
    named += [encoder.weights for encoder in encoders if encoder.weights]
    augments = getattr(getattr(section, "train", None), "augment", {}).values()
    folders += [path for augment in augments for path in augment.folders.values() if path.is_dir()]
    return [*(file_state(path) for path in named if path and path.is_file()), *map(path_state, folders)]
