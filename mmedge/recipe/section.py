"""A section of the recipe that makes a stage of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mmedge.frozen import Frozen


class StageSection(Frozen):
    """The settings of a stage, under its name in the recipe; a recipe without the section has no such stage."""

    # What its stage is called, where not as the section.
    stage: ClassVar[str] = ""
    # Figures beside those of every stage that gates may name, and that this stage alone has.
    own_gates: ClassVar[tuple[str, ...]] = ()

    def parts(self) -> Mapping[str, Frozen]:
        """The settings of each stage that the section makes, by what follows the section's name in the stage's."""
        return {"": self}

    def stages(self, section: str) -> list[str]:
        """The names of the stages that the section makes."""
        name = self.stage or section
        return [f"{name}-{part}" if part else name for part in self.parts()]
