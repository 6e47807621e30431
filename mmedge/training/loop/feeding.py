"""Batches made ahead by worker processes where that pays, and how long the device waits for them."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch

from mmedge.data.store.rows import Rows
from mmedge.data.workers import POSSIBLE, Workers
from mmedge.errors import MmedgeError
from mmedge.machine import cores
from mmedge.training.loop import processes
from mmedge.training.loop.batches import Batch, Maker, Plan, Training, plans

# Workers beyond so many seldom help one device.
_MOST = 8
# Unreadable files are judged as if at least so many samples had been read.
_JUDGED = 1000
# Above this share of an epoch, and these seconds of waiting, the report says what to set.
_WARNED, _WARNED_SECONDS = 0.1, 10.0


class Feed:
    """The batches of a training, in the order and with the content that one process alone would give them."""

    def __init__(self, training: Training, device: torch.device) -> None:
        self._training, self._device = training, device
        self.workers = _workers(training, device)
        self._waited = self._all_waited = self._all_seconds = 0.0
        self._read, self.unreadable = 0, dict[int, str]()
        self._make = Maker(training)
        self._pool: Workers | None = None

    def batches(self, epoch: int, drawn: Iterable[np.ndarray] | None = None) -> Iterator[Batch]:
        """The batches of one epoch that are this process's. ``drawn``: see ``plans``."""
        planned = plans(self._training, epoch, processes.rank(), processes.count(), drawn)
        with closing(self._made(planned)) as made:
            while True:
                idle, began = self._idle(), time.perf_counter()
                batch = next(made, None)
                # A device that was at work when a batch was asked for, and is idle when it comes, waited for some part.
                part = 1.0 if idle else 0.5 if self._idle() else 0.0
                self._waited += part * (time.perf_counter() - began)
                if batch is None:
                    return
                self._skipped(batch)
                yield batch

    def _skipped(self, batch: Batch) -> None:
        """Count the rows that could not be read. Raises MmedgeError where they are more than the recipe allows."""
        self._read += len(batch.index) + len(batch.unreadable)
        self.unreadable |= batch.unreadable
        reading = self._training.reading
        if len(self.unreadable) > reading.unreadable * max(self._read, _JUDGED):
            row, what = next(iter(batch.unreadable.items()))
            raise MmedgeError(
                f"{len(self.unreadable)} of the first {self._read} training samples cannot be read; the last: {what}",
                where=f"sample {self._training.samples.ids[row]}",
                todo=f"mend them, or raise data.unreadable ({reading.unreadable:g})",
            )

    def share(self, seconds: float) -> float:
        """What part of ``seconds``, in which an epoch was trained, the device had nothing to do until a batch came."""
        waited, self._waited = self._waited, 0.0
        self._all_waited, self._all_seconds = self._all_waited + waited, self._all_seconds + seconds
        return min(1.0, waited / max(1e-9, seconds))

    def _made(self, planned: Iterator[Plan]) -> Generator[Batch, None, None]:
        if not self.workers:
            yield from (self._make[plan] for plan in planned)
            return
        ahead = list(planned)
        rows = max((len(plan.index) for plan in ahead), default=0)
        if self._pool is None or self._pool.rows < rows or not self._pool.close.alive:
            self.close()
            one = self._make.asked(replace(ahead[0], index=self._training.usable[:1]))
            self._pool = Workers(self._make.views, self.workers, rows, self._make.views.begin(one))
        with closing(self._pool.begun(self._make.asked(plan) for plan in ahead)) as begun:
            for (asked, found), plan in zip(begun, ahead):
                batch = self._make.made(plan, asked, found)
                # What is found lies in memory that the next batch is written to.
                yield batch.pin_memory() if self._device.type == "cuda" else batch.apart(found.arrays.values())

    def close(self) -> None:
        """End the processes that prepare batches; another epoch starts them again."""
        if self._pool:
            self._pool.close()
            self._pool = None

    def _idle(self) -> bool:
        """Whether the device has done all that it was given; a CPU has, since it is this process."""
        return self._device.type != "cuda" or torch.cuda.current_stream(self._device).query()

    def advice(self) -> list[str]:
        """What a report says: samples that were skipped, and a device that waited where more processes may help."""
        found = []
        if self.unreadable:
            ids = [self._training.samples.ids[row] for row in list(self.unreadable)[:5]]
            found.append(
                f"{len(self.unreadable)} training samples could not be read and were skipped: {', '.join(ids)}"
            )
        waited, seconds = self._all_waited, self._all_seconds
        spare = cores() - (1 if self._device.type == "cuda" else torch.get_num_threads())
        if waited >= max(_WARNED * seconds, _WARNED_SECONDS) and spare > self.workers:
            found.append(
                f"the device waited for data {waited / seconds:.0%} of the time, with {self.workers} processes that"
                f" prepare batches: set data.batch_workers: {min(spare, max(1, 2 * self.workers))}"
            )
        return found


def _workers(training: Training, device: torch.device) -> int:
    """As many as are asked for, and else none but for a GPU and samples that are changed, or too many for the memory."""
    if training.reading.batch_workers is not None:
        return training.reading.batch_workers if POSSIBLE else 0
    inputs = training.samples.inputs.values()
    work = training.schedule.augment or any(isinstance(x, Rows) and not x.held for x in inputs)
    return min(_MOST, max(1, cores() - 1)) if device.type == "cuda" and work and POSSIBLE else 0
