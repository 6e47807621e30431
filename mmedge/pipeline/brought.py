"""What pretrained encoders bring along: a teacher preprocesses as they were trained, without a line of the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
            spec, assumed, _ = _brought(name, encoder, recipe.data.modalities[name])
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
    data = recipe.data.modalities
    if recipe.distill:
        own = recipe.teacher.preprocessing
        # What the recipe says itself is meant, but for what is for nobody else to do.
        yield from _strange(recipe.teacher.model, {**data, **own}, "teacher", "teacher.preprocessing", ())
        yield from _strange(recipe.distill.model, data, "distill", "data.modalities", _COMPARED)
    else:
        yield from _strange(recipe.teacher.model, data, "teacher", "data.modalities", _COMPARED)


def _strange(
    model: Model, specs: Mapping[str, ModalitySpec], stage: str, section: str, compared: Sequence[str]
) -> Iterator[Fault]:
    """A warning for each key, of those ``compared`` and of what files say to the recipe, of which a spec has another value."""
    for name, encoder in model.pretrained.items():
        ours = specs[name]
        try:
            theirs, _, said = _brought(name, encoder, ours)
        except MmedgeError as error:
            if compared:  # else whoever asked for the preprocessing has told it
                yield Fault.of(error, "model", module=f"{stage}.model")
            continue
        for key, wanted in {**{key: getattr(theirs, key, None) for key in compared}, **said}.items():
            given = getattr(ours, key, None)
            if wanted is not None and wanted != given:
                what = f"encoders.{name} was trained under {key} {wanted}, and gets {'what is fitted' if given is None else given}"
                yield Fault(
                    "warning",
                    "preprocessing",
                    what,
                    module=f"{stage}.model",
                    todo=f"{section}.{name}.{key}: {_written(wanted)}",
                )


def _written(value: object) -> object:
    """As a recipe has it."""
    return list(value) if isinstance(value, tuple) else value


def _brought(
    name: str, encoder: Pretrained, spec: ModalitySpec
) -> tuple[ModalitySpec, list[str], Mapping[str, object]]:
    # It imports torch, which a recipe without such encoders need not wait for.
    from mmedge.models.pretrained import origin_of

    try:
        found = origin_of(encoder).brought(encoder, spec)
    except UsageError as error:  # in the words of who builds the encoder: what both find is one fault
        raise UsageError(f"encoders.{name}: {error.what}", where=error.where, todo=error.todo) from error
    return found.spec, [f"encoders.{name}: {assumed}" for assumed in found.assumed], found.said
