"""Live streams: modalities that come at different rates, aligned by timestamp; encoders run once a value, not once a prediction."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmedge import preprocess
from mmedge.errors import UsageError, did_you_mean
from mmedge.runtime.engine import Engine
from mmedge.tasks import Prediction

# Values that are kept of a modality, for late predictions and values that overtake each other, and their most memory.
_KEPT, _KEPT_BYTES = 256, 16 << 20


@dataclass(frozen=True)
class StreamPrediction:
    """A prediction at a moment. ``ages_s``: how old each modality's value was; ``stale``: those that were too old, and so
    taken as missing; ``missing``: those that had none."""

    prediction: Prediction
    at: float
    ages_s: dict[str, float]
    stale: tuple[str, ...]
    missing: tuple[str, ...]


class Stream:
    """The latest values of every modality, and predictions from them. May be fed from several threads.

    Where the bundle is split (``export.split``), a value is encoded once, when it comes, and its embedding kept; a
    prediction then costs the fusion head alone. ``max_age_s``: seconds after which a value counts as missing, for all or by
    modality.
    """

    def __init__(
        self,
        engine: Engine,
        max_age_s: float | Mapping[str, float] = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        names = engine.contract.modalities
        given = dict(max_age_s) if isinstance(max_age_s, Mapping) else dict.fromkeys(names, max_age_s)
        for name in given:
            if name not in names:
                raise UsageError(f"max_age_s: the bundle has no modality {name!r}{did_you_mean(name, names)}")
            if not isinstance(given[name], (int, float)) or not given[name] >= 0:
                raise UsageError(f"max_age_s of {name} is seconds from 0 on, not {given[name]!r}")
        self._limits = {name: given.get(name, float("inf")) for name in names}
        self._engine, self._clock, self._lock = engine, clock, threading.Lock()
        self._fusion = engine.parts("fusion")
        self._encoders = {name: engine.parts(name) for name in names} if self._fusion else {}
        # What stands for an absent modality: the fusion head looks at ``present``, never at this.
        self._blank = {
            name: self._embed(name, np.zeros((1, *spec.shape), engine.inputs[name].dtype))
            for name, spec in names.items()
        }
        self._values: dict[str, deque[tuple[float, dict[str, np.ndarray]]]] = {}
        for name, blank in self._blank.items():
            most = _KEPT_BYTES // max(1, sum(array.nbytes for array in blank.values()))
            self._values[name] = deque(maxlen=max(2, min(_KEPT, most)))

    def update(self, at: float | None = None, **values: Any) -> None:
        """New raw values, as ``predict`` takes them, of the moment ``at`` (now, by the stream's clock)."""
        moment = self._moment(at)
        for name, value in values.items():
            if name not in self._values:
                raise UsageError(f"the bundle has no modality {name!r}{did_you_mean(name, self._values)}")
            spec = self._engine.contract.modalities[name]
            batch = preprocess.tensor(spec, value, name)[None]
            embedded = self._embed(name, preprocess.trimmed(spec, batch, np.ones(1, bool)))
            with self._lock:
                kept = self._values[name]
                kept.append((moment, embedded))
                if len(kept) > 1 and kept[-2][0] > moment:  # late: streams may overtake each other
                    self._values[name] = deque(sorted(kept, key=lambda pair: pair[0]), maxlen=kept.maxlen)

    def predict(self, at: float | None = None) -> StreamPrediction:
        """Predict for the moment ``at``: of every modality the latest value that is not after it.

        Raises UsageError where nothing is fresh enough.
        """
        moment = self._moment(at)
        with self._lock:
            found = {
                name: next((pair for pair in reversed(kept) if pair[0] <= moment), None)
                for name, kept in self._values.items()
            }
        ages = {name: moment - pair[0] for name, pair in found.items() if pair}
        stale = tuple(name for name, age in ages.items() if age > self._limits[name])
        used = {name: pair[1] for name, pair in found.items() if pair and name not in stale}
        if not used:
            raise UsageError(
                f"no modality has a value at this moment{': ' + ', '.join(stale) + ' too old' if stale else ''}",
                todo="update the stream more often, or allow a larger max_age_s",
            )
        feed: dict[str, np.ndarray] = {"present": np.array([[name in used for name in self._values]])}
        for name, blank in self._blank.items():
            feed |= used.get(name, blank)
        output = self._fusion.run(feed) if self._fusion else self._engine.run(feed)
        prediction = self._engine.predictions(output)[0]
        return StreamPrediction(
            prediction, moment, ages, stale, tuple(name for name, pair in found.items() if pair is None)
        )

    def _moment(self, at: float | None) -> float:
        moment = self._clock() if at is None else at
        if not isinstance(moment, (int, float, np.integer, np.floating)) or not np.isfinite(moment):
            raise UsageError(f"a moment is a number of seconds, not {moment!r}")
        return float(moment)

    def _embed(self, name: str, batch: np.ndarray) -> dict[str, np.ndarray]:
        encoder = self._encoders.get(name)
        return encoder.run({name: batch}) if encoder else {name: batch}


async def predictions(
    stream: Stream, sources: Mapping[str, AsyncIterator[tuple[float, Any]]], every: str
) -> AsyncIterator[StreamPrediction]:
    """Feed a stream from live sources of (timestamp, value) and predict at every value of the modality ``every``.

    Encoding and predicting run in threads, so that the event loop goes on. Ends with the source ``every``.
    """
    if every not in sources:
        raise UsageError(f"there is no source {every!r}{did_you_mean(every, sources)}; there are {', '.join(sources)}")

    async def feed(name: str, source: AsyncIterator[tuple[float, Any]]) -> None:
        async for moment, value in source:
            await asyncio.to_thread(stream.update, moment, **{name: value})

    feeding = [asyncio.create_task(feed(name, source)) for name, source in sources.items() if name != every]
    try:
        async for moment, value in sources[every]:
            for task in feeding:
                if task.done() and task.exception():
                    await task
            await asyncio.to_thread(stream.update, moment, **{every: value})
            yield await asyncio.to_thread(stream.predict, moment)
    finally:
        for task in feeding:
            task.cancel()
        await asyncio.gather(*feeding, return_exceptions=True)


# As version 0.1 called them.
Answer, answers = StreamPrediction, predictions
