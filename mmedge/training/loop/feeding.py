"""Batches made ahead by worker processes where that pays, and how long the device waits for them."""

from __future__ import annotations

import multiprocessing
import signal
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

import numpy as np
import torch
from torch.utils.data import DataLoader

from mmedge.data.store.rows import Rows
from mmedge.errors import MmedgeError
from mmedge.machine import cores
from mmedge.training.loop import processes
from mmedge.training.loop.batches import Batch, Maker, Plan, Training, plans

# Batches that each worker has made and nobody has taken yet.
_AHEAD = 2
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
        make = Maker(self._training)
        if not self.workers:
            yield from (make[plan] for plan in planned)
            return
        before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # how many was asked for
            made = iter(_loader(make, list(planned), self.workers, self._device))
        if before is not None and signal.getsignal(signal.SIGCHLD) is not before:
            # torch's handler would stay for good, and raise wherever we are when a process of ours ends; the loader looks
            # after its own every five seconds.
            signal.signal(signal.SIGCHLD, before)
        try:
            yield from made
            return
        except RuntimeError as error:
            if "worker" not in str(error):
                raise
            died = str(error).splitlines()[0]
        # Raised when torch's error is gone, whose frames hold the loader and its other processes.
        del made
        raise MmedgeError(
            f"a process that makes batches died: {died}",
            where=f"data.batch_workers: {self.workers}",
            todo="it may have lacked memory, or room in /dev/shm: set fewer workers, or a smaller batch",
        )

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


def _loader(make: Maker, planned: list[Plan], workers: int, device: torch.device) -> DataLoader[Batch]:
    return DataLoader(
        make,  # type: ignore[arg-type]  # what is asked for is a plan, not a number
        batch_size=None,
        sampler=planned,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
        multiprocessing_context=_START,
    )


# Workers share this process's memory as it is; where the system cannot do that there are none unless they are asked for.
_START = "fork" if "fork" in multiprocessing.get_all_start_methods() else None


def _workers(training: Training, device: torch.device) -> int:
    """As many as are asked for, and else none but for a GPU and samples that are changed, or too many for the memory."""
    if training.reading.batch_workers is not None:
        return training.reading.batch_workers
    inputs = training.samples.inputs.values()
    work = training.schedule.augment or any(isinstance(x, Rows) and not x.held for x in inputs)
    return min(_MOST, max(1, cores() - 1)) if device.type == "cuda" and work and _START else 0


def _as_it_is(batch: Batch) -> Batch:
    return batch
