"""Quality of predictions: the metric, its interval over independent units, and every subset of modalities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.data.manifest.labels import labelled
from mmedge.data.store.samples import Samples
from mmedge.errors import MmedgeError
from mmedge.spec import Contract, subsets

if TYPE_CHECKING:
    from torch import nn

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
_BATCH = 250


@dataclass(frozen=True)
class Quality:
    """``value`` of ``metric`` with its 95 % interval; ``n`` samples in ``groups`` independent units."""

    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    groups: int
    split: str
    others: dict[str, float]

    def record(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "value": self.value,
            "ci95": list(self.ci95),
            "n": self.n,
            "groups": self.groups,
            "split": self.split,
            "others": self.others,
        }


def metric_of(contract: Contract) -> str:
    """``accuracy``; the mean ``average_precision`` of several labels; for regression ``r2``: more is better everywhere."""
    return {"classification": "accuracy", "multilabel": "average_precision", "regression": "r2"}[contract.task]


def score(contract: Contract, output: np.ndarray, targets: np.ndarray) -> float:
    """The metric over labelled samples. ``output``: float [n, outputs]; ``targets``: as in ``Samples``."""
    known = labelled(targets)
    output, targets = output[known], targets[known]
    if contract.task == "classification":
        return float((output.argmax(axis=1) == targets).mean())
    if contract.task == "multilabel":
        return average_precision(output, targets)
    spread = float(((targets - targets.mean()) ** 2).sum())
    return float(1 - ((output[:, 0] - targets) ** 2).sum() / spread) if spread else float("nan")


def average_precision(output: np.ndarray, targets: np.ndarray) -> float:
    """The macro mean over labels of the area under precision and recall; NaN where no label has a sample.

    ``output``: float [n, labels]; ``targets``: 0 or 1, [n, labels]. A label that no sample has is left out. Equal
    outputs share one threshold, as in scikit-learn's ``average_precision_score``.
    """
    found = []
    for scores, has in zip(output.T, targets.T > 0.5):
        if has.any():
            right, everything = np.sort(scores[has]), np.sort(scores)
            above = [len(all_) - np.searchsorted(all_, right) for all_ in (right, everything)]
            found.append(float((above[0] / above[1]).mean()))
    return float(np.mean(found)) if found else float("nan")


def quality(contract: Contract, output: np.ndarray, samples: Samples, *, resamples: int, seed: int) -> Quality:
    """The metric with its ``interval`` over ``samples.groups``.

    Raises MmedgeError where the output is not finite.
    """
    if not np.isfinite(output).all():
        raise MmedgeError(
            "the model's output holds NaN or infinity",
            where=f"{samples.split} split, sample {samples.ids[int(np.argwhere(~np.isfinite(output))[0][0])]}",
        )
    known = np.flatnonzero(samples.labelled)
    output, targets, groups = output[known], samples.targets[known], samples.groups[known]
    return Quality(
        metric_of(contract),
        score(contract, output, targets),
        interval(lambda rows: score(contract, output[rows], targets[rows]), groups, resamples=resamples, seed=seed),
        len(known),
        len(np.unique(groups)),
        samples.split,
        _others(contract, output, targets),
    )


def interval(
    figure: Callable[[np.ndarray], float], groups: np.ndarray, *, resamples: int, seed: int
) -> tuple[float, float]:
    """The 95 % interval of ``figure(rows)``, where whole groups are drawn again (Field & Welsh 2007). ``groups``: int [n].

    Of few groups the percentiles lie further out, as Student's t does (Hesterberg 2015, "expanded percentiles"). It is
    never narrower than if each sample were a group of its own: that is all that one group can tell, and nothing of
    others.
    """
    from scipy.special import ndtr, stdtrit

    bounds = []
    for units in (groups, np.arange(len(groups))):
        count = len(np.unique(units))
        if count > 1:
            tail = float(ndtr(-((count / (count - 1)) ** 0.5) * stdtrit(count - 1, 0.975)))
            draws = [figure(rows) for rows in bootstrap_rows(units, resamples, seed)]
            bounds.append(np.nanpercentile(draws, [100 * tail, 100 * (1 - tail)]))
        if count == len(groups):  # the samples are the groups
            break
    if not bounds:
        return (figure(np.arange(len(groups))),) * 2
    return float(min(low for low, _ in bounds)), float(max(high for _, high in bounds))


def bootstrap_rows(groups: np.ndarray, resamples: int, seed: int) -> list[np.ndarray]:
    """``resamples`` draws of rows, each made of whole groups drawn with replacement. ``groups``: int [n]."""
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return [
        np.concatenate([members[unit] for unit in rng.integers(len(members), size=len(members))])
        for _ in range(resamples)
    ]


def subset_answers(
    contract: Contract, samples: Samples, predict: Callable[[np.ndarray], np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{subset: (scored rows, bool [n]; output, float [n, outputs])} for every non-empty subset that has such rows.

    Scored are the labelled samples that have all of the subset's modalities. ``predict(present: bool [n, M]) -> float
    [n, outputs]`` withholds what is not present.
    """
    names = tuple(contract.modalities)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for chosen in subsets(names):
        shown = samples.shown(chosen)
        if shown.labelled.any():
            found["+".join(chosen)] = shown.labelled, predict(shown.present)
    return found


def subset_scores(
    contract: Contract, samples: Samples, predict: Callable[[np.ndarray], np.ndarray]
) -> dict[str, float]:
    """The metric for every subset of ``subset_answers``."""
    return scores_of(contract, subset_answers(contract, samples, predict), samples.targets, np.arange(len(samples)))


def scores_of(
    contract: Contract, answers: Mapping[str, tuple[np.ndarray, np.ndarray]], targets: np.ndarray, rows: np.ndarray
) -> dict[str, float]:
    """{subset: the metric} of ``subset_answers`` over ``rows`` (int64, any number of times each), of ``targets`` as in ``Samples``.

    Left out is a subset that has no figure there: none of the rows, equal targets alone (R2), or no row with any label.
    """
    scores = {}
    for name, (scored, output) in answers.items():
        among = rows[scored[rows]]
        if len(among):
            scores[name] = score(contract, output[among], targets[among])
    return {name: value for name, value in scores.items() if not np.isnan(value)}


def balanced(quality: float, subsets: Collection[float]) -> float:
    """What checkpoints and students are chosen by: all modalities present weigh as much as the mean of the subsets."""
    return 0.5 * quality + 0.5 * (sum(subsets) / len(subsets) if subsets else quality)


def answered(run: Run, samples: Samples, present: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Every output of a model, batch by batch in the samples' order. ``present``: bool [n, M]."""
    for start in range(0, len(samples), _BATCH):
        rows = slice(start, start + _BATCH)
        inputs = {name: np.array(x[rows]) for name, x in samples.inputs.items()}
        yield dict(run({**inputs, "present": np.array(present[rows])}))


def module_run(module: nn.Module) -> Run:
    """A torch model's ``run({input: array}) -> {output: array}``."""
    import torch

    device = next(module.parameters()).device

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            given = module(**{name: torch.from_numpy(x).to(device) for name, x in inputs.items()})
        return {name: x.cpu().numpy() for name, x in given.items()}

    return run


def predict_module(module: nn.Module, contract: Contract, samples: Samples, present: np.ndarray) -> np.ndarray:
    """A torch model's answer [n, outputs] for every sample; ``present``: bool [n, M]."""
    return predict_graph(module_run(module), contract, samples, present)


def predict_graph(run: Run, contract: Contract, samples: Samples, present: np.ndarray) -> np.ndarray:
    """The same by an engine's ``run``."""
    return np.concatenate([outputs[contract.output] for outputs in answered(run, samples, present)])


def graph_predictor(run: Run, contract: Contract, samples: Samples) -> Callable[[np.ndarray], np.ndarray]:
    """``predict(present) -> output`` of an engine; the same ``present`` is not computed twice."""
    return computed_once(lambda present: predict_graph(run, contract, samples, present))


def computed_once(predict: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """``predict(present)`` that remembers what it said to each ``present``."""
    known: dict[bytes, np.ndarray] = {}

    def remembered(present: np.ndarray) -> np.ndarray:
        key = present.tobytes()
        if key not in known:
            known[key] = predict(present)
        return known[key]

    return remembered


def _others(contract: Contract, output: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    if contract.task == "regression":
        errors = output[:, 0] - targets
        return {"mae": float(np.abs(errors).mean()), "rmse": float(np.sqrt((errors**2).mean()))}
    from sklearn.metrics import f1_score

    if contract.task == "multilabel":
        said, true = output > 0, targets > 0.5
        return {
            "f1_micro": float(f1_score(true, said, average="micro", zero_division=0)),
            "f1": float(f1_score(true, said, average="macro", zero_division=0)),
            "all_labels_right": float((said == true).all(axis=1).mean()),
        }
    return {"f1": float(f1_score(targets, output.argmax(axis=1), average="macro", zero_division=0))}
