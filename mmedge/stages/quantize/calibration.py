"""What a graph is calibrated on: training samples spread over the classes, each with all its modalities or a subset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mmedge import tasks
from mmedge.backends import onnxruntime_cpu, writing
from mmedge.contract import Contract, subsets
from mmedge.data.store.samples import Samples
from mmedge.errors import MmedgeError
from mmedge.graph.qdq import WEIGHTED
from mmedge.recipe import Quantize, computes_int8
from mmedge.report.schema import CurveRecord

# The number of samples is doubled from the first to at most the last, until ranges change by less than the tolerance.
_FEWEST, MOST = 32, 1024
_TOLERANCE = 0.02
# The share of the activations that must have come to rest.
_SHARE = 0.9


def calibration_rows(train: Samples, count: int, seed: int) -> np.ndarray:
    """int64 rows of the training split, spread evenly over the classes. Fewer rows are the first of more."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train))
    labels = train.spread
    if labels is not None:
        rank = np.zeros(len(order), np.int64)
        for label in np.unique(labels):
            of_label = labels[order] == label
            rank[of_label] = np.arange(of_label.sum())
        order = order[np.argsort(rank, kind="stable")]
    return order[:count]


def calibration_inputs(train: Samples, rows: np.ndarray, seed: int) -> list[dict[str, np.ndarray]]:
    """Paired calibration: each sample with all its modalities at once, a quarter of them as a random subset."""
    names = tuple(train.inputs)
    rng = np.random.default_rng(seed)
    proper = subsets(names)[:-1]
    inputs = []
    for number, row in enumerate(rows):
        present = train.present[row]
        if number % 4 == 3 and proper:
            kept = present & np.array([name in proper[rng.integers(len(proper))] for name in names])
            present = kept if kept.any() else present
        inputs.append(
            {**{name: np.array(x[row : row + 1]) for name, x in train.inputs.items()}, "present": present[None]}
        )
    return inputs


def with_steps(graph: Path, inputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """The inputs as they are; of a graph that writes texts each with a step of its own text, the first, the second and so on."""
    how = writing.described(graph)
    if how is None:
        return inputs
    feed = writing.feeds(graph, how, onnxruntime_cpu.session)
    return [feed(sample, number) for number, sample in enumerate(inputs)]


def converged(
    graph: Path, inputs: Sequence[Mapping[str, np.ndarray]], step: Callable[[int, int], None] = lambda done, total: None
) -> tuple[int, list[CurveRecord]]:
    """(how many of the samples suffice, the curve that shows it).

    A range is the mean of each sample's extremes, as the quantizer takes it. The number is doubled until nine tenths of
    the inputs of convolutions and products have ranges that change by less than 2 %; the curve holds the
    change from half as many. All samples are needed where that never comes.
    """
    extremes = _Extremes(graph)
    curve: list[CurveRecord] = []
    if not extremes.tensors:
        return min(_FEWEST, len(inputs)), curve
    count, before = min(_FEWEST, len(inputs)), None
    while True:
        extremes.take(inputs[:count])
        step(count, len(inputs))
        ranges = np.mean(extremes.found, axis=0)  # [tensors, 2]
        if before is not None:
            change = np.abs(ranges - before).max(axis=1) / np.maximum(np.ptp(ranges, axis=1), 1e-12)
            curve.append(CurveRecord(samples=count, change=float(np.quantile(change, _SHARE))))
            if curve[-1].change < _TOLERANCE:
                return count, curve
        if count == len(inputs):
            return count, curve
        count, before = min(2 * count, len(inputs)), ranges


def calibrated(
    graph: Path,
    inputs: Callable[[], Sequence[dict[str, np.ndarray]]],
    config: Quantize,
    notes: list[str],
    step: Callable[[int, int], None],
    *,
    of: str,
) -> tuple[list[dict[str, np.ndarray]], list[CurveRecord]]:
    """(the first of ``inputs`` that calibrate, ``converged``'s curve), with a note on how many; ``of`` names all there are.

    As many as the recipe says, else as suffice. None, and none are read, where no candidate computes in 8 bits.
    """
    if not any(computes_int8(name) for name in config.candidates):
        return [], []
    found = list(inputs())
    if config.calibration:
        if len(found) < config.calibration:
            notes.append(f"calibrated on {len(found)} samples, all there are; {config.calibration} were asked for")
        return found[: config.calibration], []
    count, curve = converged(graph, found, step)
    change = f": the ranges changed by {curve[-1].change:.1%} from half as many" if curve else ""
    notes.append(f"calibrated on {count} of {of}{change}")
    return found[:count], curve


class _Extremes:
    """The least and largest value of every input of a weighted layer, sample by sample; a sample is run once."""

    def __init__(self, graph: Path) -> None:
        import onnx

        model = onnx.load(graph)
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = {value.name for value in model.graph.input}
        wanted = [node.input[0] for node in model.graph.node if node.op_type in WEIGHTED]
        self.tensors = [name for name in dict.fromkeys(wanted) if name not in stored]
        taken = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.tensors if name not in taken | inputs)
        self.run = onnxruntime_cpu.session(model.SerializeToString())
        self.found: list[list[tuple[float, float]]] = []

    def take(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Run what was not run yet of a list that grows."""
        for sample in inputs[len(self.found) :]:
            values = {**sample, **self.run(sample)}
            # Zero belongs to every range: padding and absent values are zeros, and a tensor may have no values at all.
            found = [(float(values[name].min(initial=0)), float(values[name].max(initial=0))) for name in self.tensors]
            lost = [name for name, ends in zip(self.tensors, found) if not np.isfinite(ends).all()]
            if lost:
                raise MmedgeError(
                    f"calibration sample {len(self.found) + 1} makes {lost[0]!r} NaN or infinite, and codes have no range then",
                    todo="leave out the sample, or look for NaN in it",
                )
            self.found.append(found)


def gaps(
    samples: Samples, rows: np.ndarray, inputs: Sequence[Mapping[str, np.ndarray]], contract: Contract
) -> list[str]:
    """What the calibration samples do not show of the data: classes, and modalities present and absent."""
    found = []
    for name, head in contract.heads.items():
        if not tasks.of(head).BALANCED:
            continue
        covered = {int(label) for label in samples.targets[name][rows] if label >= 0}
        missing = [label for index, label in enumerate(head.labels) if index not in covered]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            found.append(f"no sample of the classes {', '.join(missing[:5])}{more}")
    present = np.concatenate([sample["present"] for sample in inputs])
    for index, name in enumerate(contract.modalities):
        if not present[:, index].any():
            found.append(f"no sample has {name}: the ranges of its branch are those of what stands in for it")
        elif len(contract.modalities) > 1 and present[:, index].all():
            found.append(f"every sample has {name}: what stands in for it was not seen")
    return found
