"""What a report and an artifact show of their recipe, and where the same user finds the rest: folders are personal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from mmedge.artifact import hash_json, write_json
from mmedge.frozen import Frozen
from mmedge.recipe.read import each_path
from mmedge.recipe.whole import Recipe


def portable(section: Frozen) -> dict[str, JsonValue]:
    """A recipe, or a section of it, as plain values in which every path is the file's name alone."""
    values = each_path(section, lambda path: Path(path.name)).model_dump(mode="json", by_alias=True)
    return {name: _without_folders(value) for name, value in values.items()}


def _without_folders(value: Any) -> Any:
    """``args`` are a user's own and may name folders too."""
    if isinstance(value, str) and (os.path.isabs(value) or value.startswith("~")):
        return Path(value).name
    if isinstance(value, dict):
        return {name: _without_folders(item) for name, item in value.items()}
    return [_without_folders(item) for item in value] if isinstance(value, list) else value


def remember(recipe: Recipe, code: Path, work: Path) -> None:
    """Write the whole recipe, and the folder of its code, into ``work``, the run's private folder."""
    file, record = _file(portable(recipe), work), {"recipe": recipe.resolved(), "code": str(code)}
    if not file.is_file() or json.loads(file.read_text(encoding="utf-8")) != record:
        write_json(file, record)


def recall(values: dict[str, JsonValue], work: Path) -> tuple[dict[str, JsonValue], Path]:
    """The whole recipe of what ``portable`` gave, and its folder of code.

    An artifact that was carried away from its run knows neither: then the values as they are, and this folder.
    """
    file = _file(values, work)
    if not file.is_file():
        return values, Path()
    record = json.loads(file.read_text(encoding="utf-8"))
    return record["recipe"], Path(record["code"])


def _file(values: dict[str, JsonValue], work: Path) -> Path:
    return work / "recipes" / f"{hash_json(values)[:24]}.json"
