"""What must not change an output: the rest of the batch, and whether an input of a dynamic length is padded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.errors import MismatchError
from mmedge.measure.quality import Run
from mmedge.preprocess import trimmed
from mmedge.spec import TextSpec

# Samples of which the output alone is compared with that in a batch.
_ALONE = 32
# Texts of which the output at their own length is compared with the padded one's.
_COMPARED = 64


def check_alone(run: Run, contract: Contract, samples: Samples, relative: float, graph: Path) -> None:
    """Hold a graph's outputs for one sample at a time, as apps run it, against those in a batch, by which it is judged.

    ``relative``: the largest difference, over the largest output. Raises MismatchError.
    """
    rows = slice(0, min(_ALONE, len(samples)))
    inputs = {name: np.array(x[rows]) for name, x in samples.inputs.items()} | {"present": samples.present[rows]}
    together = run(inputs)
    heads = _compared_heads(contract)
    scale = max([1.0, *(float(np.abs(together[head]).max(initial=0)) for head in heads)])
    for row in range(len(inputs["present"])):
        alone = run({name: x[row : row + 1] for name, x in inputs.items()})
        each = (_difference(alone[head], together[head][row : row + 1]) for head in heads)
        difference = float(np.max([0.0, *each]))  # NaN stays NaN, which max would drop
        if not difference <= relative * scale:
            raise MismatchError(
                f"a sample's output depends on the rest of its batch: alone it is another by {difference:.3g}",
                where=f"{graph}, sample {samples.ids[row]}",
                todo="compute nothing over the batch axis in forward: give BatchNorm its running statistics",
            )


def _compared_heads(contract: Contract) -> list[str]:
    """The heads whose outputs have a distance. Of texts that a step writes after each other one token's least difference makes
    another text; what they are made of is held against the parent, and judged."""
    return [name for name, head in contract.heads.items() if not tasks.of(head).CODES]


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference; infinity where the shapes are not the same."""
    return float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")


def check_trimmed(run: Run, contract: Contract, samples: Samples, relative: float, graph: Path) -> None:
    """Hold a graph's outputs for texts of any length against those to the padded ones that it was trained with.

    ``relative``: the largest difference, over the largest output. Raises MismatchError.
    """
    for column, (name, spec) in enumerate(contract.modalities.items()):
        rows = np.flatnonzero(samples.present[:, column])[:_COMPARED]
        if not isinstance(spec, TextSpec) or spec.shortest is None or not len(rows):
            continue
        inputs = {other: np.array(x[rows]) for other, x in samples.inputs.items()} | {"present": samples.present[rows]}
        padded_outputs = run(inputs)
        heads = _compared_heads(contract)
        scale = max([1.0, *(float(np.abs(padded_outputs[head]).max()) for head in heads)])
        for row, padded, cut in _cut(spec, inputs[name]):
            one = {other: x[row : row + 1] for other, x in inputs.items()}
            whole, shorter = (run(one | {name: ids}) for ids in (padded, cut))
            difference = max([0.0, *(float(np.abs(shorter[head] - whole[head]).max()) for head in heads)])
            if not difference <= relative * scale:
                raise MismatchError(
                    f"the output for a text of {cut.shape[1]} tokens is another by {difference:.3g} where it is not padded to {spec.length}",
                    where=f"{graph}, {name} of {samples.ids[rows[row]]}",
                    todo=f"let the network not look at padding (token {spec.pad}), or leave out data.modalities.{name}.min_length",
                )


def _cut(spec: TextSpec, ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(row, its ids padded to the whole length, the same without) of every text at its own length.

    And of the longest text cut to the least length, to a middle one and to the whole one. ``ids``: int64 [texts, length].
    """
    there = np.ones(1, bool)
    for row in range(len(ids)):
        yield row, ids[row : row + 1], trimmed(spec, ids[row : row + 1], there)
    longest, least = int((ids != spec.pad).sum(axis=1).argmax()), spec.shortest or 1
    for length in (least, (least + spec.length) // 2, spec.length):
        padded = ids[longest : longest + 1].copy()
        padded[:, length:] = spec.pad
        yield longest, padded, padded[:, :length].copy()
