"""What every function of the package takes beside model and data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a recipe has beside the section of a function.
SHARED = ("measure", "gates", "prefer", "track")


@dataclass(frozen=True)
class Options:
    """What every function takes beside model and data. ``settings``: keys of the recipe's section of that verb."""

    out: str | Path | None
    seed: int
    weights: str | Path | None
    settings: Mapping[str, Any]

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that are the whole recipe's."""
        return {name: self.settings[name] for name in SHARED if name in self.settings}

    @property
    def own(self) -> dict[str, Any]:
        """The settings of the section."""
        return {name: value for name, value in self.settings.items() if name not in SHARED}
