"""A section of the recipe that makes a stage of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from mmedge.frozen import Frozen

# What follows where a stage's budget is missed.
OnMiss = Literal["try-next", "keep-parent", "stop"]


class StageSection(Frozen):
    """The settings of a stage, under its name in the recipe; a recipe without the section has no such stage."""

    # Why its stage has no on_miss, where it has none: what a recipe that gives one is told.
    never_misses: ClassVar[str] = "it has no budget of its own; a limit on what it makes is a gate"
    # What its stage is called, where not as the section.
    stage: ClassVar[str] = ""
    # Figures beside those of every stage that gates may name, and that this stage alone has.
    own_gates: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _misses_something(cls, given: Any) -> Any:
        if isinstance(given, dict) and "on_miss" in given and "on_miss" not in cls.model_fields:
            raise ValueError(f"'on_miss' is not of this stage: {cls.never_misses}")
        return given

    def parts(self) -> Mapping[str, Frozen]:
        """The settings of each stage that the section makes, by what follows the section's name in the stage's."""
        return {"": self}

    def stages(self, section: str) -> list[str]:
        """The names of the stages that the section makes."""
        name = self.stage or section
        return [f"{name}-{part}" if part else name for part in self.parts()]
