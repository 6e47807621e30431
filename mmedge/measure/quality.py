"""Quality of predictions: the metric, its interval over independent units, and every subset of modalities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mmedge import tasks
from mmedge.contract import Contract, subsets
from mmedge.data.store.samples import Samples
from mmedge.errors import MmedgeError
from mmedge.gate import Estimate
from mmedge.measure.intervals import Bounds, of_figure, of_share
from mmedge.report.schema import QualityRecord
from mmedge.tasks.scale import Scale

if TYPE_CHECKING:
    from torch import nn

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
# {head: float [n, W]}.
Outputs = Mapping[str, np.ndarray]
# Outputs for every sample where only bool [n, M] is present.
Predict = Callable[[np.ndarray], Outputs]
# {subset: (rows that have all of it, outputs)}.
SubsetOutputs = Mapping[str, tuple[np.ndarray, Outputs]]
# Samples that are run at a time, and bytes of their inputs: a network's maps inside take some hundred times as much.
_BATCH, _BYTES = 250, 8 << 20


def metric_of(contract: Contract) -> str:
    """The metric of the one head; of several heads the ``mean`` of theirs. More is better everywhere."""
    heads = list(contract.heads.values())
    return tasks.of(heads[0]).METRIC if len(heads) == 1 else "mean"


def score(contract: Contract, outputs: Outputs, targets: Mapping[str, np.ndarray]) -> float:
    """The metric over the rows whose target is known; of several heads the mean of their metrics, each over its own rows.

    ``outputs``: {head: float [n, W]}, of ``placing``; ``targets``: as in ``Samples``. NaN where no head has a figure.
    """
    found = [
        tasks.of(head).score(outputs[name][known], targets[name][known], head)
        for name, head in contract.heads.items()
        if (known := tasks.of(head).known(targets[name])).any()
    ]
    defined = [value for value in found if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def to_draw(contract: Contract, targets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The targets as far as figures of outputs ask for them, which an interval draws hundreds of times: of arrays whether they are known."""
    return {
        name: targets[name][:, :1] if tasks.of(head).PLACED else targets[name] for name, head in contract.heads.items()
    }


def rows_of(arrays: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """{name: the rows (int64, or bool [n]) of its array}."""
    return {name: x[rows] for name, x in arrays.items()}


def of_head(contract: Contract, name: str) -> Contract:
    """The contract with one head alone: what judges that head."""
    return contract.model_copy(update={"heads": {name: contract.heads[name]}})


def quality(contract: Contract, outputs: Outputs, samples: Samples) -> QualityRecord:
    """The metric with its 95 % interval over ``samples.groups``. ``outputs``: {head: float [n, W]}.

    Raises MmedgeError where an output is not finite.
    """
    for name in contract.heads:
        if not np.isfinite(outputs[name]).all():
            raise MmedgeError(
                "the model's output holds NaN or infinity",
                where=f"{samples.split} split, sample {samples.ids[int(np.argwhere(~np.isfinite(outputs[name]))[0][0])]}",
            )
    known = samples.known_rows(contract.heads)
    outputs, targets, groups = rows_of(outputs, known), rows_of(samples.targets, known), samples.groups[known]
    found, others = bounds(contract, outputs, targets, groups), _others(contract, outputs, targets)
    return QualityRecord(
        metric=metric_of(contract),
        value=score(contract, outputs, targets),
        ci95=(found.low, found.high),
        method=found.method,
        n=len(known),
        groups=len(np.unique(groups)),
        split=samples.split,
        others=dict(others),
        others_ci95=_others_ci95(contract, outputs, targets, groups, others),
    )


def bounds(
    contract: Contract, outputs: Outputs, targets: Mapping[str, np.ndarray], groups: np.ndarray, tail: float = 0.025
) -> Bounds:
    """The interval of the metric that leaves out ``tail`` on each side, over groups (int64 [n]); exact where it is a share."""
    targets = to_draw(contract, targets)
    right = right_of(contract, outputs, targets)
    if right is not None:
        known = np.flatnonzero(_known(contract, targets))
        return of_share(right[known], groups[known], tail)

    def drawn(rows: np.ndarray) -> float:
        return score(contract, rows_of(outputs, rows), rows_of(targets, rows))

    return of_figure(drawn, groups, scale_of(contract), tail)


def right_of(contract: Contract, outputs: Outputs, targets: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """bool [n]: which rows are right, where the metric is the share of those; False where nothing is known."""
    if len(contract.heads) > 1:
        return None
    ((name, head),) = contract.heads.items()
    task = tasks.of(head)
    return np.asarray(task.chosen(outputs[name]) == targets[name]) if task.LABELS and not task.SEVERAL else None


def scale_of(contract: Contract) -> Scale:
    """On which scale the metric is looked at; a mean over heads has an upper edge only, since one of them may be R2."""
    heads = [tasks.of(head) for head in contract.heads.values()]
    return heads[0].FIGURES[heads[0].METRIC] if len(heads) == 1 else "unexplained"


def _known(contract: Contract, targets: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.any([tasks.of(head).known(targets[name]) for name, head in contract.heads.items()], axis=0)


def bootstrap_rows(groups: np.ndarray, resamples: int, seed: int) -> list[np.ndarray]:
    """``resamples`` draws of rows, each made of whole groups drawn with replacement. ``groups``: int [n]."""
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return [
        np.concatenate([members[unit] for unit in rng.integers(len(members), size=len(members))])
        for _ in range(resamples)
    ]


def subset_outputs(contract: Contract, samples: Samples, predict: Predict) -> SubsetOutputs:
    """{subset: (rows that have all of its modalities, bool [n]; {head: float [n, W]})} for each that has labelled rows.

    ``predict(present: bool [n, M]) -> {head: float [n, W]}`` withholds what is not present.
    """
    names = tuple(contract.modalities)
    found: dict[str, tuple[np.ndarray, Outputs]] = {}
    for chosen in subsets(names):
        masked = samples.masked_to(chosen)
        if masked.labelled.any():
            found["+".join(chosen)] = masked.labelled, predict(masked.present)
    return found


def subset_scores(contract: Contract, samples: Samples, predict: Predict) -> dict[str, float]:
    """The metric for every subset of ``subset_outputs``."""
    return scores_of(contract, subset_outputs(contract, samples, predict), samples.targets, np.arange(len(samples)))


def scores_of(
    contract: Contract, subsets: SubsetOutputs, targets: Mapping[str, np.ndarray], rows: np.ndarray
) -> dict[str, float]:
    """{subset: the metric} of ``subset_outputs`` over ``rows`` (int64, any number of times each), of ``targets`` as in ``Samples``.

    Left out is a subset that has no figure there: none of the rows, equal targets alone (R2), or no row with any label.
    """
    scores = {}
    for name, (scored, outputs) in subsets.items():
        among = rows[scored[rows]]
        if len(among):
            scores[name] = score(contract, rows_of(outputs, among), rows_of(targets, among))
    return {name: value for name, value in scores.items() if not np.isnan(value)}


def balanced(quality: float, subsets: Collection[float]) -> float:
    """What checkpoints and students are chosen by: all modalities present weigh as much as the mean of the subsets."""
    return 0.5 * quality + 0.5 * (sum(subsets) / len(subsets) if subsets else quality)


def batched_outputs(run: Run, samples: Samples, present: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Every output of a model, batch by batch in the samples' order. ``present``: bool [n, M]."""
    sample = sum(x.dtype.itemsize * int(np.prod(x.shape[1:])) for x in samples.inputs.values())
    batch = int(np.clip(_BYTES // max(1, sample), 1, _BATCH))
    for start in range(0, len(samples), batch):
        rows = slice(start, start + batch)
        inputs = {name: np.array(x[rows]) for name, x in samples.inputs.items()}
        yield dict(run({**inputs, "present": np.array(present[rows])}))


def module_run(module: nn.Module) -> Run:
    """A torch model's ``run({input: array}) -> {output: array}``."""
    import torch

    device = next(module.parameters()).device

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = module(**{name: torch.from_numpy(x).to(device) for name, x in inputs.items()})
        return {name: x.cpu().numpy() for name, x in outputs.items()}

    return run


def predict_module(
    module: nn.Module, contract: Contract, samples: Samples, present: np.ndarray
) -> dict[str, np.ndarray]:
    """A torch model's outputs {head: [n, W]} for every sample; ``present``: bool [n, M]."""
    return predict_graph(module_run(module), contract, samples, present)


def predict_graph(run: Run, contract: Contract, samples: Samples, present: np.ndarray) -> dict[str, np.ndarray]:
    """The same by an engine's ``run``."""
    batches = list(batched_outputs(run, samples, present))
    return {name: np.concatenate([outputs[name] for outputs in batches]) for name in contract.heads}


def graph_predictor(run: Run, contract: Contract, samples: Samples) -> Predict:
    """``predict(present) -> outputs`` of an engine, to be judged (``placing``); the same ``present`` is not computed twice."""
    return placing(lambda present: predict_graph(run, contract, samples, present), contract, samples)


def placing(predict: Predict, contract: Contract, samples: Samples) -> Predict:
    """``predict`` whose outputs can be judged row by row, computed once.

    Where rows are judged among one another, that is where each stands in the outputs of all of them with all that they
    have: a gallery that neither a subset of the modalities nor a resampling of the rows changes. Of arrays it is how far
    each is from its target.
    """
    raw = computed_once(predict)
    if not any(tasks.of(head).PLACED for head in contract.heads.values()):
        return raw
    return computed_once(lambda present: placed_outputs(contract, raw(present), raw(samples.present), samples.targets))


def placed_outputs(
    contract: Contract, outputs: Outputs, gallery: Outputs, targets: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What the tasks judge of outputs; ``gallery``: the outputs of the same rows with all that they have."""
    return {
        name: tasks.of(head).placed(outputs[name], gallery[name], targets[name], head)
        for name, head in contract.heads.items()
    }


def computed_once(predict: Predict) -> Predict:
    """``predict(present)`` that remembers what it gave for each ``present``."""
    known: dict[bytes, Outputs] = {}

    def remembered(present: np.ndarray) -> Outputs:
        key = present.tobytes()
        if key not in known:
            known[key] = predict(present)
        return known[key]

    return remembered


def _others(contract: Contract, outputs: Outputs, targets: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Further figures of the one head; of several heads the metric of each, by its name."""
    found: dict[str, float] = {}
    for name, head in contract.heads.items():
        task = tasks.of(head)
        known = task.known(targets[name])
        if not known.any():
            continue
        output, wanted = outputs[name][known], targets[name][known]
        if len(contract.heads) == 1:
            found |= task.others(output, wanted, head)
        elif not np.isnan(value := task.score(output, wanted, head)):
            found[f"{name}.{task.METRIC}"] = value
    return found


def figure_of(
    contract: Contract,
    outputs: Outputs,
    targets: Mapping[str, np.ndarray],
    groups: np.ndarray,
    figure: str,
    tail: float,
) -> Estimate | None:
    """A further figure of the one head over rows that all have a known target, with its bounds; None where it has none."""
    ((name, head),), targets = contract.heads.items(), to_draw(contract, targets)
    task = tasks.of(head)

    def drawn(rows: np.ndarray) -> float:
        given = outputs[name][rows], targets[name][rows]
        value = task.further(figure, *given, head)
        return value if value == value else task.others(*given, head).get(figure, float("nan"))

    value = drawn(np.arange(len(groups)))
    if np.isnan(value):
        return None
    found = of_figure(drawn, groups, task.FIGURES[figure.partition(".")[0]], tail)
    return Estimate(value, found.low, found.high, len(groups), found.method)


def _others_ci95(
    contract: Contract,
    outputs: Outputs,
    targets: Mapping[str, np.ndarray],
    groups: np.ndarray,
    others: Mapping[str, float],
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each of ``_others``."""
    found: dict[str, tuple[float, float]] = {}
    if len(contract.heads) > 1:
        for name, head in contract.heads.items():
            figure = f"{name}.{tasks.of(head).METRIC}"
            if figure in others:
                known = np.flatnonzero(tasks.of(head).known(targets[name]))
                each = bounds(of_head(contract, name), rows_of(outputs, known), rows_of(targets, known), groups[known])
                found[figure] = each.low, each.high
        return found
    ((head_name, head),), targets = contract.heads.items(), to_draw(contract, targets)
    taken: dict[bytes, dict[str, float]] = {}

    def drawn(figure: str, rows: np.ndarray) -> float:
        key = rows.tobytes()  # all figures are taken of the same rows
        if key not in taken:
            taken[key] = tasks.of(head).others(outputs[head_name][rows], targets[head_name][rows], head)
        return taken[key].get(figure, float("nan"))

    for figure in others:
        each = of_figure(partial(drawn, figure), groups, tasks.of(head).FIGURES[figure.partition(".")[0]])
        found[figure] = each.low, each.high
    return found
