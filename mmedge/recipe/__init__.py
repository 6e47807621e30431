"""Recipes: complete YAML files that a user copies and edits. They are data; the only code they name is ``module:attribute``."""

from mmedge.recipe.compression import Candidate, Precision, Prune, Quantize, computes_int8, precision_of
from mmedge.recipe.data import Data, Fold, Redact, Stream
from mmedge.recipe.export import Export, Measure, Target, TargetOptions
from mmedge.recipe.origin import recall, remember, shown
from mmedge.recipe.read import InvalidRecipe, load, parse, with_overrides
from mmedge.recipe.training import (
    Another,
    Augment,
    Controls,
    Distill,
    Encoder,
    Given,
    Hint,
    Loss,
    Model,
    Schedule,
    Teacher,
    Train,
)
from mmedge.recipe.whole import Recipe

__all__ = [
    "Another",
    "Augment",
    "Candidate",
    "Controls",
    "Data",
    "Distill",
    "Encoder",
    "Export",
    "Fold",
    "Given",
    "Hint",
    "InvalidRecipe",
    "Loss",
    "Measure",
    "Model",
    "Precision",
    "Prune",
    "Quantize",
    "Recipe",
    "Redact",
    "Schedule",
    "Stream",
    "Target",
    "TargetOptions",
    "Teacher",
    "Train",
    "computes_int8",
    "load",
    "parse",
    "precision_of",
    "recall",
    "remember",
    "shown",
    "with_overrides",
]
