"""TensorBoard: the curves, as event files in ``OUT/tensorboard``, a folder a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmedge.tracking import Opening, State


class TensorBoard:
    """A writer a training; what its files have of epochs that are trained again is dropped."""

    def __init__(self, folder: Path) -> None:
        self.id, self.fresh = folder.name, not folder.exists()
        self._folder, self._writers = folder, dict[str, Any]()

    def row(self, training: str, record: Mapping[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        epoch = int(record["epoch"])
        if training not in self._writers:
            self._writers[training] = SummaryWriter(str(self._folder / training), purge_step=epoch)
        for name, value in record.items():
            if name != "epoch":
                self._writers[training].add_scalar(name, value, epoch)
        self._writers[training].flush()

    def parameters(self, values: Mapping[str, str]) -> None:
        pass

    def figures(self, values: Mapping[str, float]) -> None:
        pass

    def files(self, files: Mapping[str, Path]) -> None:
        pass

    def close(self, state: State) -> None:
        for writer in self._writers.values():
            writer.close()


def opened(place: Opening) -> TensorBoard:
    """The event files of a run."""
    return TensorBoard(place.out / "tensorboard")
