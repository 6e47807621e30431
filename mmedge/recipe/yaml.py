"""What a YAML text holds, as plain values: bounded in size and depth, and nothing but texts, numbers, lists and mappings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from mmedge.errors import UsageError, brief

# No recipe comes near these: a text of some characters can unfold to millions of values by aliases, or nest thousands deep.
_LONGEST, _MOST_VALUES, _DEEPEST = 2_000_000, 100_000, 50
# What nests: brackets, and what stands before a line; texts in quotes and comments are passed over.
_MARKS = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|(?:^|(?<=\s))\#[^\n]*|[\[{\]}]|^(?:[ \t]|[-?][ ])+""", re.MULTILINE)
_NOT_WRITABLE = re.compile(r"[\ud800-\udfff\x00]")


def read(text: str, where: str, *, lines: bool = False) -> Any:
    """The value of a YAML text; with ``lines``, ruamel's containers, which know the line of each key. Raises UsageError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text) > _LONGEST:
        raise UsageError(f"the text has {len(text)} characters: no recipe is so long", where=where)
    if _depth(text) > _DEEPEST:
        raise _too_deep(where)
    try:
        return YAML(typ="rt" if lines else "safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}" if mark else where
        raise UsageError(f"the recipe is not valid YAML: {error.problem}", where=place) from error
    except RecursionError as error:
        raise _too_deep(where) from error
    except (
        YAMLError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        AssertionError,
        NotImplementedError,
    ) as error:
        # ruamel raises what its own code stumbles over: a date of month 13, a number of 5,000 digits
        reason = brief(str(error) or type(error).__name__, quoted=False)
        raise UsageError(f"the recipe is not valid YAML: {reason}", where=where) from error


def plain(tree: Any, where: str) -> Any:
    """ruamel's containers and scalars as Python's own, aliases unfolded; raises UsageError for what no recipe holds."""
    count = 0

    def walk(value: Any, path: tuple[str, ...]) -> Any:
        nonlocal count
        count += 1
        if count > _MOST_VALUES:
            raise UsageError(f"the recipe unfolds to more than {_MOST_VALUES} values: its aliases repeat", where=where)
        if len(path) > _DEEPEST:
            raise _too_deep(where)
        if isinstance(value, Mapping):
            held: dict[str, object] = {}
            for key, item in value.items():
                name = _text(str(key), path, where)
                if name in held:
                    raise UsageError(f"the key {name!r} stands twice: as a text and as a number", where=where)
                held[name] = walk(item, (*path, name))
            return held
        if isinstance(value, list):
            return [walk(item, (*path, str(number))) for number, item in enumerate(value)]
        return _scalar(value, path, where)

    return walk(tree, ())


def _scalar(value: Any, path: tuple[str, ...], where: str) -> Any:
    from ruamel.yaml.scalarbool import ScalarBoolean

    if value is None or isinstance(value, (bool, date)):  # a date is told as no text where one is wanted
        return value
    if isinstance(value, ScalarBoolean):
        return bool(value)
    if isinstance(value, str):
        return _text(str(value), path, where)
    if isinstance(value, int):
        if abs(value) >= 2**64:
            raise UsageError(f"{'.'.join(path)}: the number has more than 64 bits", where=where)
        return int(value)
    if isinstance(value, float):
        return float(value)
    what = f"{'.'.join(path)}: a recipe holds texts, numbers, lists and mappings, and no {type(value).__name__}"
    raise UsageError(what, where=where, todo="leave out the tag, a word with a ! before it")


def _text(text: str, path: tuple[str, ...], where: str) -> str:
    if _NOT_WRITABLE.search(text):
        what = f"{'.'.join(path) or 'a key'}: {brief(text)} holds half a surrogate pair or a NUL, which no file can be named by"
        raise UsageError(what, where=where, todo="write the character itself")
    return text


def _depth(text: str) -> int:
    """How deep a text nests at most, by its brackets, indentation and dashes, but for those in quotes and comments."""
    deepest = open_brackets = 0
    for mark in _MARKS.finditer(text):
        found = mark.group()
        if found in "[{":
            open_brackets += 1
        elif found in "]}":
            open_brackets = max(0, open_brackets - 1)
        elif found[0] in " \t-?":  # a step in is one blank or dash at least
            deepest = max(deepest, found.count("-") + found.count("?") + found.count(" ") // 4)
        deepest = max(deepest, open_brackets)
    return deepest


def _too_deep(where: str) -> UsageError:
    return UsageError(f"the recipe nests more than {_DEEPEST} deep", where=where, todo="no key of a recipe is so deep")
