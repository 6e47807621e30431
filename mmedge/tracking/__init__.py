"""What follows a run while it goes on: TensorBoard, MLflow, Weights & Biases. A new one is a file and a row of the table.

A row's file is imported when a recipe asks for it. What fails, a server that is gone say, is left out from then on, and
never ends a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

from mmedge.errors import Interrupted, MissingDependency, first_line

# What a recipe may name.
Name = Literal["tensorboard", "mlflow", "wandb"]

# Takes one epoch's figures, of which ``epoch`` counts from 1.
Log = Callable[[Mapping[str, float]], None]

# How a run ended.
State = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class Opening:
    """``run``: its name; ``out``: its folder; ``earlier``: the tracker's own id of an interrupted call that this one goes on from."""

    run: str
    out: Path
    earlier: str = ""


class Tracker(Protocol):
    """``id``: what ``Opening.earlier`` takes; ``fresh``: whether nothing of this run has been told to it before."""

    id: str
    fresh: bool

    def parameters(self, values: Mapping[str, str]) -> None:
        """The recipe: {key with dots: value}."""

    def row(self, training: str, record: Mapping[str, float]) -> None:
        """An epoch of a training, as ``teacher/teacher``."""

    def figures(self, values: Mapping[str, float]) -> None:
        """What was measured: {stage/figure: value}."""

    def files(self, files: Mapping[str, Path]) -> None:
        """What was written: {name: file or folder}."""

    def close(self, state: State) -> None:
        """Nothing follows."""


@dataclass(frozen=True)
class Row:
    """``file``: its code, which gives ``opened(Opening) -> Tracker``; ``package``: what it imports; ``get``: installs that."""

    file: str
    package: str
    get: str


TRACKERS: dict[Name, Row] = {
    "tensorboard": Row("mmedge.tracking.tensorboard", "tensorboard", "pip install tensorboard"),
    "mlflow": Row("mmedge.tracking.mlflow", "mlflow", "pip install 'mmedge[mlflow]'"),
    "wandb": Row("mmedge.tracking.wandb", "wandb", "pip install 'mmedge[wandb]'"),
}


def require(name: Name) -> None:
    """Raise MissingDependency, with the command that helps, where a tracker's package is not installed."""
    row = TRACKERS[name]
    if find_spec(row.package) is None:
        raise MissingDependency(
            f"the recipe asks for {name}, which is not installed",
            where="track",
            todo=f"{row.get}, or leave {name} out of track",
        )


class Tracking:
    """The trackers of a run, none where nothing was asked for. ``say`` gets a line where one is given up."""

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self._say, self._trackers = say, dict[Name, Tracker]()

    def open(self, name: Name, place: Opening) -> None:
        """Begin, or go on, telling a tracker."""
        with self._giving_up(name):
            self._trackers[name] = import_module(TRACKERS[name].file).opened(place)

    @property
    def ids(self) -> dict[Name, str]:
        """{tracker: its id of this run}."""
        return {name: tracker.id for name, tracker in self._trackers.items()}

    def __bool__(self) -> bool:
        return bool(self._trackers)

    def log(self, training: str) -> Log:
        """Where a training's epochs are told."""
        return lambda record: self._each(lambda tracker: tracker.row(training, record))

    def earlier(self, training: str, records: Sequence[Mapping[str, float]]) -> None:
        """A training of an earlier call, to those that have not followed it."""

        def told(tracker: Tracker) -> None:
            for record in records:
                tracker.row(training, record)

        self._each(told, fresh=True)

    def parameters(self, values: Mapping[str, str]) -> None:
        """The recipe, to each that has not been told it."""
        self._each(lambda tracker: tracker.parameters(values), fresh=True)

    def finish(self, figures: Mapping[str, float], files: Mapping[str, Path]) -> None:
        """What came of the run."""
        self._each(lambda tracker: tracker.figures(figures))
        self._each(lambda tracker: tracker.files(files))

    def close(self, state: State) -> None:
        """Let all go."""
        self._each(lambda tracker: tracker.close(state))
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None], *, fresh: bool = False) -> None:
        for name, tracker in list(self._trackers.items()):
            if tracker.fresh or not fresh:
                with self._giving_up(name):
                    call(tracker)

    @contextmanager
    def _giving_up(self, name: Name) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a server, a disk, a login: whatever it is, the run is worth more
            self._trackers.pop(name, None)
            self._say(f"tracking: {name} is left out from here on: {type(error).__name__}: {first_line(error)}")


@contextmanager
def following(names: Sequence[Name], run: str, out: Path, say: Callable[[str], None]) -> Iterator[Tracking]:
    """The trackers of a run into ``out``, closed as it ends. An interrupted run goes on under the ids that it had."""
    found = Tracking(say)
    remembered = {name: out / ".work" / "tracking" / name for name in names}
    for name, file in remembered.items():
        found.open(name, Opening(run, out, file.read_text(encoding="utf-8") if file.is_file() else ""))
    for name, identity in found.ids.items():
        remembered[name].parent.mkdir(parents=True, exist_ok=True)
        remembered[name].write_text(identity, encoding="utf-8")
    try:
        yield found
    except BaseException as error:
        found.close("interrupted" if isinstance(error, (KeyboardInterrupt, Interrupted)) else "failed")
        raise
    found.close("finished")
    for file in remembered.values():
        file.unlink(missing_ok=True)
