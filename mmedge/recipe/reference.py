"""Every key of a recipe with its type, limits, default and meaning, drawn from the models' own fields; and the JSON Schema."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import JsonValue
from pydantic.fields import FieldInfo

from mmedge.backends import Options
from mmedge.errors import UsageError, did_you_mean
from mmedge.frozen import Frozen
from mmedge.recipe.export import options_by_backend
from mmedge.recipe.whole import Recipe

# The schema as a file beside a recipe, which the recipe's first line names to editors.
SCHEMA_FILE = "recipe.schema.json"
SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA_FILE}"

_UNIONS = (Union, types.UnionType)
_SIGNS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
_WORDS = {"str": "text", "int": "whole number", "float": "number", "bool": "true | false", "Path": "path"}


@dataclass(frozen=True)
class Key:
    """A key of a section: what it takes, its default or "required", and what it means."""

    name: str
    takes: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """``path``: where it stands, as ``distill.loss``. ``like``: an earlier section of the same keys, which are not told again."""

    path: str
    text: str
    keys: tuple[Key, ...]
    like: str | None = None


def schema() -> dict[str, JsonValue]:
    """The recipe's JSON Schema, with which editors complete and check a recipe while it is written."""
    drawn = Recipe.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **drawn, "title": "mmedge recipe"}


def sections(within: str = "") -> list[Section]:
    """The whole recipe's sections, or those at and below ``within``. Raises UsageError where there is no such section."""
    found = list(_walk(Recipe, "", {}))
    chosen = [section for section in found if f"{section.path}.".startswith(f"{within}.") or not within]
    if not chosen:
        names = [section.path for section in found if section.path]
        raise UsageError(
            f"a recipe has no section {within!r}{did_you_mean(within, names)}", todo="mmedge init --keys lists them all"
        )
    return chosen


def _walk(model: type[Frozen], path: str, seen: dict[type, str]) -> Iterator[Section]:
    earlier = seen.setdefault(model, path)
    text = inspect.cleandoc(model.__doc__ or "")
    if earlier != path:
        yield Section(path, text.partition("\n")[0], (), like=earlier)
        return
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    keys = (Key(name, _type(field), _default(field), field.description or "") for name, field in fields.items())
    yield Section(path, text, tuple(keys))
    for name, field in fields.items():
        for below, inner in _models(field.annotation):
            yield from _walk(inner, f"{path}.{name}{below}".removeprefix("."), seen)


def _models(annotation: Any) -> list[tuple[str, type[Frozen]]]:
    """The sections that a key holds, each with how it is reached: through the names of a mapping, the numbers of a list."""
    if annotation is Options:
        return [("", Options), *((f" ({name})", options) for name, options in options_by_backend().items())]
    if inspect.isclass(annotation) and issubclass(annotation, Frozen):
        return [("", annotation)]
    step = {dict: ".NAME", tuple: ".N"}.get(get_origin(annotation), "")
    found = [(f"{step}{below}", model) for inner in get_args(annotation) for below, model in _models(inner)]
    if get_origin(annotation) in _UNIONS and len(found) > 1:  # of several forms each is told by its kind
        found = [(f"{below} ({_told_by(model)})", model) for below, model in found]
    return found


def _told_by(model: type[Frozen]) -> str:
    """A form's kind where there is one for it alone, else its class."""
    kind = model.model_fields.get("kind")
    return str(get_args(kind.annotation)[0]) if kind and kind.is_required() else model.__name__.lower()


def _type(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(limit, name)}" for limit in field.metadata for name, sign in _SIGNS if hasattr(limit, name)
    ]
    return ", ".join([_takes(field.annotation), *limits])


def _takes(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in _UNIONS:
        return " | ".join(dict.fromkeys("null" if one is type(None) else _takes(one) for one in inner))
    if origin is tuple:
        return f"[{', '.join('...' if one is Ellipsis else _takes(one) for one in inner)}]"
    if origin is dict:
        return f"{{{_takes(inner[0])}: {_takes(inner[1])}}}"
    if inner:  # Annotated
        return _takes(inner[0])
    if inspect.isclass(annotation) and issubclass(annotation, Frozen):
        return "section"
    return _WORDS.get(getattr(annotation, "__name__", ""), "any")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Frozen):
        return "its defaults"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
