"""The bases of every typed value: what a recipe or a contract holds, and what stands in a manifest or a report."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A typed value that is never written to and takes no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Record(BaseModel):
    """What stands in a manifest or a report: no more than was given, and what a later version added beside it."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, protected_namespaces=())

    def record(self) -> dict[str, Any]:
        """As JSON values; what was not given is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
