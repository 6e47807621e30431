"""MLflow: a run of the experiment MLFLOW_EXPERIMENT_NAME (mmedge where that is not set), where MLFLOW_TRACKING_URI says.

Through MLflow's client, so that a run of the caller's own that is active meanwhile stays as it is.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from mmedge.tracking import Opening, State

# A server that is gone holds a run up for seconds, not for the many minutes of MLflow's own defaults.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_STATES: dict[State, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# What one call of MLflow takes.
_PARAMETERS, _LONGEST = 100, 6000


class Mlflow:
    """One run of MLflow."""

    def __init__(self, client: Any, run: str, *, fresh: bool) -> None:
        self.id, self.fresh, self._client = run, fresh, client

    def parameters(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        left = iter([Param(_plain(name)[:250], value[:_LONGEST]) for name, value in values.items()])
        while some := list(islice(left, _PARAMETERS)):
            self._client.log_batch(self.id, params=some)

    def row(self, training: str, record: Mapping[str, float]) -> None:
        step = int(record["epoch"])
        self._metrics({f"{training}/{name}": value for name, value in record.items() if name != "epoch"}, step)

    def figures(self, values: Mapping[str, float]) -> None:
        self._metrics(values, 0)

    def files(self, files: Mapping[str, Path]) -> None:
        for name, path in files.items():
            if path.is_dir():
                self._client.log_artifacts(self.id, str(path), name)
            else:
                self._client.log_artifact(self.id, str(path))

    def close(self, state: State) -> None:
        self._client.set_terminated(self.id, _STATES[state])

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.id, [Metric(_plain(name), value, now, step) for name, value in values.items()])


def opened(place: Opening) -> Mlflow:
    """A run of its own, the one that MLFLOW_RUN_ID names, or the one that an interrupted call had."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    # MLflow would refuse the folder that MLFLOW_TRACKING_URI names.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow
    from mlflow.exceptions import MlflowException

    # The light package lacks the database that MLflow writes to where it is told no place.
    nowhere = not mlflow.is_tracking_uri_set() and find_spec("sqlalchemy") is None
    client = mlflow.MlflowClient(Path("mlruns").resolve().as_uri() if nowhere else None)
    named = os.environ.get("MLFLOW_RUN_ID", "")
    for run in filter(None, (place.earlier, named)):
        with suppress(MlflowException):  # it was deleted, or lies on another server
            client.update_run(run, status="RUNNING")
            return Mlflow(client, run, fresh=run != place.earlier)
    return Mlflow(client, client.create_run(_experiment(client), run_name=place.run).info.run_id, fresh=True)


def _experiment(client: Any) -> str:
    """The id of the experiment, which is made where it is not there."""
    given = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if given:
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "mmedge")
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _plain(name: str) -> str:
    """A name of what MLflow takes in one."""
    return re.sub(r"[^\w/.\- :]", "_", name)
