"""What pretrained encoders bring along: a teacher preprocesses as they were trained, without a line of the recipe."""

from __future__ import annotations

from collections.abc import Iterator

from mmedge.errors import Fault, MmedgeError, UsageError
from mmedge.preprocess import fit_vocabulary
from mmedge.recipe import Model, Pretrained, Recipe
from mmedge.spec import ModalitySpec, TextSpec

# What an encoder's preprocessing must agree in where it is the data's that is taken.
_COMPARED = ("height", "width", "crop", "crop_share", "mean", "std", "length", "tokenizer_file")


def with_preprocessing(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe with its teacher's ``preprocessing`` of all pretrained encoders, but for what it says itself; and what was assumed.

    Where nothing is distilled the teacher is what ships, and the data's own preprocessing stays. Raises UsageError where an encoder's files cannot be had.
    """
    teacher, notes = recipe.teacher, list[str]()
    if recipe.distill is None:
        return recipe, notes
    own = dict(teacher.preprocessing)
    for name, encoder in teacher.model.pretrained.items():
        if name not in own:
            spec, assumed = _brought(name, encoder, recipe.data.modalities[name])
            notes += assumed
            if spec != recipe.data.modalities[name]:
                own[name] = spec
    if own == teacher.preprocessing:
        return recipe, notes
    return recipe.model_copy(update={"teacher": teacher.model_copy(update={"preprocessing": own})}), notes


def brought_faults(recipe: Recipe) -> Iterator[Fault]:
    """Warnings of what was assumed of a teacher's encoders, and of encoders that get another preprocessing than they were trained under."""
    try:
        whole, notes = with_preprocessing(recipe)
        for note in notes:
            yield Fault("warning", "assumed", note, module="teacher.model", todo="say it under teacher.preprocessing")
        for spec in whole.teacher.preprocessing.values():
            # The data's are told where the data is looked at.
            if isinstance(spec, TextSpec) and spec.tokenizer_file is not None:
                fit_vocabulary(spec, ())
    except MmedgeError as error:
        yield Fault.of(error, "model", module="teacher.model")
    student = [("distill", recipe.distill.model)] if recipe.distill else [("teacher", recipe.teacher.model)]
    for stage, model in student:
        yield from _strange(recipe, f"{stage}.model", model)


def _strange(recipe: Recipe, where: str, model: Model) -> Iterator[Fault]:
    for name, encoder in model.pretrained.items():
        ours = recipe.data.modalities[name]
        try:
            theirs = _brought(name, encoder, ours)[0]
        except MmedgeError as error:
            yield Fault.of(error, "model", module=where)
            continue
        for key in _COMPARED:
            wanted, given = getattr(theirs, key, None), getattr(ours, key, None)
            if wanted is not None and wanted != given:
                what = f"encoders.{name} was trained under {key} {wanted}, the data's is {given or 'fitted'}"
                yield Fault(
                    "warning",
                    "preprocessing",
                    what,
                    module=where,
                    todo=f"data.modalities.{name}.{key}: {_written(wanted)}",
                )


def _written(value: object) -> object:
    """As a recipe has it."""
    return list(value) if isinstance(value, tuple) else value


def _brought(name: str, encoder: Pretrained, spec: ModalitySpec) -> tuple[ModalitySpec, list[str]]:
    # It imports torch, which a recipe without such encoders need not wait for.
    from mmedge.models.pretrained import origin_of

    try:
        found = origin_of(encoder).brought(encoder, spec)
    except UsageError as error:  # in the words of who builds the encoder: what both find is one fault
        raise UsageError(f"encoders.{name}: {error.what}", where=error.where, todo=error.todo) from error
    return found.spec, [f"encoders.{name}: {assumed}" for assumed in found.assumed]
