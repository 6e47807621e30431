"""Weights & Biases: a run of the project WANDB_PROJECT (mmedge where that is not set), on- or offline as WANDB_MODE says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmedge.tracking import Opening, State

# A server that is gone, or a login that nobody answers, holds a run up no longer than that.
_PATIENCE_S = 60


class Wandb:
    """One run of Weights & Biases."""

    def __init__(self, run: Any, *, fresh: bool) -> None:
        self.id, self.fresh, self._run = str(run.id), fresh, run

    def parameters(self, values: Mapping[str, str]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def row(self, training: str, record: Mapping[str, float]) -> None:
        # Each training has its own epochs, and so its own axis.
        self._run.define_metric(f"{training}/*", step_metric=f"{training}/epoch")
        self._run.log({f"{training}/{name}": value for name, value in record.items()})

    def figures(self, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def files(self, files: Mapping[str, Path]) -> None:
        import wandb

        for name, path in files.items():
            kind = "model" if path.is_dir() else "report"
            found = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{self._run.name}-{name}"), kind)
            found.add_dir(str(path)) if path.is_dir() else found.add_file(str(path))
            self._run.log_artifact(found)

    def close(self, state: State) -> None:
        self._run.finish(exit_code=0 if state == "finished" else 1)


def opened(place: Opening) -> Wandb:
    """A run of its own, or the one that an interrupted call had."""
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "mmedge"),
        name=os.environ.get("WANDB_NAME", place.run),
        dir=os.environ.get("WANDB_DIR", str(place.out)),
        id=place.earlier or os.environ.get("WANDB_RUN_ID"),
        resume="allow",
        reinit="create_new",  # a run of the caller's own that is active meanwhile stays as it is
        settings=wandb.Settings(
            silent=True, console="off", init_timeout=_PATIENCE_S, login_timeout=_PATIENCE_S, finish_timeout=_PATIENCE_S
        ),
    )
    return Wandb(run, fresh=not place.earlier)
