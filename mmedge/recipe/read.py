"""Reading a recipe file: every fault of it is collected and told at once, with its line and a near key."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, JsonValue, ValidationError

from mmedge.backends import Options
from mmedge.errors import UsageError, brief, did_you_mean
from mmedge.recipe import yaml
from mmedge.recipe.export import options_by_backend
from mmedge.recipe.whole import Recipe


class InvalidRecipe(UsageError):
    """``lines``: a fault of the recipe each. ``rest``: the recipe without the faulty keys; None where that is no recipe."""

    def __init__(self, lines: list[str], rest: Recipe | None) -> None:
        self.lines, self.rest = lines, rest
        count = len(lines)
        super().__init__(
            f"the recipe has {count} fault{'s' if count > 1 else ''}:\n" + "\n".join(f"  {line}" for line in lines)
        )


def load(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a YAML recipe; ``overrides`` are ``key.subkey=value``. Paths in it are relative to its folder.

    Raises UsageError; where keys or values are faulty, InvalidRecipe that lists every fault with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            "the recipe does not exist",
            where=str(path),
            todo="correct the path, or copy one of recipes/; mmedge init writes one for a table",
        ) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:  # a path may hold a NUL
        raise UsageError(f"the recipe cannot be read: {error}", where=str(path)) from error
    tree = yaml.read(text, str(path), lines=True)
    if not isinstance(tree, Mapping):
        table = path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".parquet")
        todo = f"mmedge init {path} writes one for a table" if table else "copy one of recipes/*.yaml"
        raise UsageError("a recipe is a mapping of keys to values", where=str(path), todo=todo)
    given = tuple(override.partition("=")[0] for override in overrides)
    values = with_overrides(yaml.plain(tree, str(path)), overrides)
    return parse(values, where=path, tree=tree, folder=path.parent, given=given)


# What --set may give a path to.
_PATH_KEYS = (
    "data.manifest",
    "data.recordings",
    "data.align.*.file",
    "data.modalities.*.tokenizer_file",
    "teacher.onnx",
    "teacher.outputs",
    "teacher.model.weights",
    "*.model.encoders.*.weights",
    "teacher.preprocessing.*.tokenizer_file",
    "distill.model.weights",
    "distill.teachers.*.artifact",
    "distill.teachers.*.onnx",
    "distill.teachers.*.outputs",
    "distill.teachers.*.model.weights",
    "*.augment.*_folder",
)


def with_overrides(values: dict[str, JsonValue], overrides: tuple[str, ...]) -> dict[str, JsonValue]:
    """A copy of a recipe's plain values with ``key.subkey=value`` applied."""
    values = copy.deepcopy(values)
    for override in overrides:
        _override(values, override)
    return values


def parse(
    values: dict[str, JsonValue],
    *,
    where: Path,
    tree: Any = None,
    folder: Path | None = None,
    given: tuple[str, ...] = (),
) -> Recipe:
    """Validate plain values as a recipe. ``folder`` anchors its relative paths; ``given``: the keys that --set gave."""
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        places = [fault["loc"] for fault in error.errors()]
        lines = [
            line
            for fault in error.errors()
            # A list that is too short because its items are faulty: the items' faults say it.
            if not (
                fault["type"] == "too_short" and any(loc[: len(fault["loc"])] == fault["loc"] != loc for loc in places)
            )
            for line in _fault_lines(fault, where, tree, values, given)
        ]
        rest = _without(values, error.errors())
        raise InvalidRecipe(lines, _anchored(rest, folder) if rest and folder else rest) from None
    return _anchored(recipe, folder) if folder else recipe


def _without(values: dict[str, JsonValue], faults: Sequence[Any]) -> Recipe | None:
    """The recipe of ``values`` without the keys that are faulty; None where the rest is no recipe either.

    A word that was meant is taken in place of a misspelt one, so that all else is judged by it.
    """
    values = copy.deepcopy(values)
    meant_at: dict[tuple[str, ...], str | None] = {}
    for fault in faults:
        held: Any = values
        path: list[str] = []
        meant = _meant(fault)
        for step in fault["loc"]:  # some steps are no keys, but tags of a union
            if isinstance(held, dict) and step in held:
                path, held = [*path, str(step)], held[step]
        if meant and isinstance(held, dict):  # a modality of an unknown kind
            path, held = [*path, "kind"], held["kind"]
        if path and not (meant_at.get(tuple(path)) and not meant):
            meant_at[tuple(path)] = meant if isinstance(held, str) else None  # else an item of a list
    for (*parents, key), meant in meant_at.items():
        section: Any = values
        for parent in parents:
            section = section.get(parent, {})
        if meant:
            section[key] = meant
        else:
            section.pop(key, None)
    try:
        return Recipe.model_validate(values)
    except ValidationError:
        return None


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    anchored: Recipe = each_path(recipe, lambda path: Path(os.path.abspath(folder / path.expanduser())))
    return anchored


def each_path(value: Any, change: Callable[[Path], Path]) -> Any:
    """A section, or what it holds, with every path of it changed."""
    if isinstance(value, Path):
        return change(value)
    if isinstance(value, BaseModel):
        held = {name: getattr(value, name) for name in type(value).model_fields}
        return value.model_copy(update={name: each_path(item, change) for name, item in held.items()})
    if isinstance(value, Mapping):
        return {name: each_path(item, change) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(each_path(item, change) for item in value)
    return value


def _override(values: dict[str, JsonValue], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UsageError(f"--set takes key=value, not {override!r}", todo="for example --set teacher.train.epochs=5")
    *parents, last = dotted.split(".")
    try:
        value = yaml.plain(yaml.read(text, "--set"), f"--set {dotted}")
    except UsageError as error:
        raise UsageError(f"--set {dotted}: the value is not valid YAML: {brief(text)}") from error
    value = _typed(dotted, value)
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        below = values[parent]
        if not isinstance(below, dict):
            raise UsageError(f"--set {dotted}: {parent!r} has no keys below it")
        values = below
    values[last] = value


def _typed(dotted: str, value: JsonValue) -> JsonValue:
    """A value typed in a shell: its paths are relative to where it was typed."""
    if isinstance(value, dict):
        return {key: _typed(f"{dotted}.{key}", each) for key, each in value.items()}
    if isinstance(value, list):
        return [_typed(f"{dotted}.{number}", each) for number, each in enumerate(value)]
    if isinstance(value, str) and any(fnmatchcase(dotted, key) for key in _PATH_KEYS):
        return str(Path(os.path.abspath(Path(value).expanduser())))
    return value


def _fault_lines(fault: Any, where: Path, tree: Any, values: Any, given: tuple[str, ...]) -> list[str]:
    # pydantic names a union's branch (an ImageSpec's tag, say) in the location; only keys of the recipe are shown.
    # ``values`` may hold what --set added, ``tree`` the lines of what stands in the file.
    steps: list[str] = []
    line = None
    for step in fault["loc"]:
        if isinstance(values, Mapping) and step in values:
            values = values[step]
            if isinstance(tree, Mapping) and step in tree:
                line, tree = tree.lc.key(step)[0] + 1, tree[step]  # type: ignore[attr-defined]  # ruamel's mapping
            else:
                tree = None
        elif isinstance(values, (list, tuple)) and isinstance(step, int) and step < len(values):
            values, tree = values[step], tree[step] if isinstance(tree, list) and step < len(tree) else None
        elif fault["type"] != "missing" or step != fault["loc"][-1]:
            continue
        steps.append(str(step))
    key = ".".join(steps)
    place = f"{where}:{line}: " if line else f"{where}: "
    if any(f"{key}.".startswith(f"{override}.") for override in given):
        place = "--set: "
    match fault["type"]:
        case "extra_forbidden":
            messages = [f"unknown key '{key}'{did_you_mean(str(fault['loc'][-1]), _keys_at(fault['loc'][:-1]))}"]
        case "missing":
            messages = [f"the key '{key}' is missing"]
        case "value_error":
            messages = [(f"{key}: " if key else "") + text for text in str(fault["ctx"]["error"]).splitlines()]
        case _:
            meant = _meant(fault)
            near = f" (did you mean {meant!r}?)" if meant else ""
            messages = [f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, not {brief(fault['input'])}{near}"]
    return [place + message for message in messages]


def _meant(fault: Any) -> str | None:
    """The word that was meant where a value is one of a few words, and near to one of them."""
    if fault["type"] == "value_error" and isinstance(fault["input"], str):  # a word that one of our tables lacks
        meant = re.search(r"\(did you mean '([^']*)'\?\)", str(fault["ctx"]["error"]))
        return meant[1] if meant else None
    if fault["type"] not in ("literal_error", "union_tag_invalid"):
        return None
    context = fault["ctx"]
    known = re.findall(r"'([^']*)'", str(context.get("expected") or context.get("expected_tags")))
    given = fault["input"].get("kind") if isinstance(fault["input"], Mapping) else fault["input"]
    close = get_close_matches(given, known, n=1, cutoff=0.6) if isinstance(given, str) else []
    return close[0] if close else None


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    """The keys that a section takes: walks the annotations along ``location``."""
    candidates: list[type[BaseModel]] = [Recipe]
    for step in location:
        following: list[type[BaseModel]] = []
        for model in candidates:
            for name, field in model.model_fields.items():
                if step in (name, field.alias):
                    following += _models_in(field.annotation)
        candidates = following or candidates  # a mapping's key or a union's tag leads no deeper
    return [field.alias or name for model in candidates for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if annotation is Options:
        return [Options, *options_by_backend().values()]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
