"""The base of every typed value that a recipe, a manifest or a bundle holds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A typed value that is never written to and takes no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
