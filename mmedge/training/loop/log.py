"""What is written of a training while it goes on and afterwards: one row an epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mmedge.errors import MissingDependency

CSV = "training.csv"


def csv_of(history: Sequence[Mapping[str, float]]) -> str:
    """The history as a CSV text: a header, and a row an epoch. A training without epochs has no columns either."""
    text = io.StringIO()
    if history:
        writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    return text.getvalue()


def csv_read(path: Path) -> list[dict[str, float]]:
    """The history that ``csv_of`` wrote."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


class Log(Protocol):
    """``row(record)`` takes one epoch's figures; ``epoch`` in it counts from 1."""

    def row(self, record: Mapping[str, float]) -> None: ...


@contextmanager
def logging_to(kind: str, folder: Path, done: int) -> Iterator[Log]:
    """Where each epoch's figures go as it ends: TensorBoard's event files in ``folder``, or nowhere (``csv``).

    ``done``: epochs of an earlier, interrupted call; what TensorBoard has of later ones is dropped.
    """
    if kind == "csv":
        yield _Nowhere()
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependency(
            "TensorBoard is not installed", where="train.log", todo="pip install tensorboard, or set train.log: csv"
        ) from None
    with SummaryWriter(str(folder), purge_step=done + 1) as writer:
        yield _TensorBoard(writer)


class _Nowhere:
    def row(self, record: Mapping[str, float]) -> None:
        pass


class _TensorBoard:
    def __init__(self, writer: object) -> None:
        self._writer = writer

    def row(self, record: Mapping[str, float]) -> None:
        for name, value in record.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(record["epoch"]))  # type: ignore[attr-defined]
        self._writer.flush()  # type: ignore[attr-defined]
