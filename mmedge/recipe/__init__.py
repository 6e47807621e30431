"""Recipes: complete YAML files that a user copies and edits. They are data; the only code they name is ``module:attribute``."""

from mmedge.recipe.augment import Augment, Mix
from mmedge.recipe.budget import Budget
from mmedge.recipe.compression import Candidate, Precision, Prefer, Prune, Quantize, computes_int8, is_of, precision_of
from mmedge.recipe.data import Data, Fold, Redact, TimedTable
from mmedge.recipe.export import Export, Measure
from mmedge.recipe.model import Model, TextDecoder
from mmedge.recipe.origin import portable, recall, remember
from mmedge.recipe.pretrained import AnyEncoder, Encoder, Pretrained
from mmedge.recipe.pretraining import Pretrain
from mmedge.recipe.privacy import Privacy
from mmedge.recipe.read import InvalidRecipe, load, parse, with_overrides
from mmedge.recipe.train import Train
from mmedge.recipe.training import (
    Controls,
    Distill,
    FurtherTeacher,
    Hint,
    Loss,
    MainTeacher,
    Schedule,
    TeacherConfig,
)
from mmedge.recipe.whole import Recipe

__all__ = [
    "AnyEncoder",
    "Augment",
    "Budget",
    "Candidate",
    "Controls",
    "Data",
    "Distill",
    "Encoder",
    "Export",
    "Fold",
    "FurtherTeacher",
    "Hint",
    "InvalidRecipe",
    "Loss",
    "MainTeacher",
    "Measure",
    "Mix",
    "Model",
    "Precision",
    "Prefer",
    "Pretrain",
    "Pretrained",
    "Privacy",
    "Prune",
    "Quantize",
    "Recipe",
    "Redact",
    "Schedule",
    "TeacherConfig",
    "TextDecoder",
    "TimedTable",
    "Train",
    "computes_int8",
    "is_of",
    "load",
    "parse",
    "portable",
    "precision_of",
    "recall",
    "remember",
    "with_overrides",
]
