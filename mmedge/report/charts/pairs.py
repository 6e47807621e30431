"""Arrays: the target above, and what was predicted of it below."""

from __future__ import annotations

from mmedge.report.plots import figure_and_axes, svg_of
from mmedge.report.review import PairRecord

# Of so few numbers a frame each is a line of its own.
_LINES = 6


def draw(pair: PairRecord) -> str:
    """Few numbers a frame are lines, the prediction dashed; more are pictures of one scale, time from left to right."""
    if len(pair.target[0]) <= _LINES:
        return _lines(pair)
    figure, axes = figure_and_axes(4.6, 3.6)
    axes.remove()
    above, below = figure.subplots(2, 1, sharex=True)
    numbers = [number for frame in pair.target for number in frame]
    for part, frames, name in ((above, pair.target, "target"), (below, pair.predicted, "predicted")):
        rows = [list(place) for place in zip(*frames)]
        part.imshow(rows, aspect="auto", origin="lower", vmin=min(numbers), vmax=max(numbers))
        part.set_ylabel(name)
    below.set_xlabel("frame")
    return svg_of(figure)


def _lines(pair: PairRecord) -> str:
    figure, axes = figure_and_axes(4.6, 3.6)
    for number, (true, guess) in enumerate(zip(zip(*pair.target), zip(*pair.predicted))):
        axes.plot(true, color=f"C{number}", linewidth=1)
        axes.plot(guess, color=f"C{number}", linewidth=1, linestyle="--")
    axes.set_xlabel("frame, target solid, predicted dashed")
    return svg_of(figure)
