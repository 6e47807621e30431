"""How far two models that should be one are apart: every output, over every sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.measure.quality import Run, batched_outputs
from mmedge.report.schema import AgreementRecord
from mmedge.tasks import Head

# Share of an output's whole numbers or booleans that must be equal: those that stand at a threshold may jump.
SAME = 0.99


@dataclass
class Agreement:
    """One output of a model against its parent's, over ``n`` samples with ``subset`` present.

    ``max_abs``, ``mean_abs``: of the difference, NaN where either is NaN; ``largest``: the parent's largest absolute
    value. ``same``: of a head the share of samples whose outputs mean the same; of others the share of equal values
    where they are codes, whole numbers or booleans (``whole``); None elsewhere. ``worst``: the row that differs most.
    """

    subset: str
    output: str
    max_abs: float = 0.0
    mean_abs: float = 0.0
    largest: float = 0.0
    same: float | None = None
    whole: bool = False
    worst: int = 0
    n: int = 0

    def within(self, relative: float, least: float) -> bool:
        """Whether the difference is at most ``relative`` of the largest value (at least 1), and ``same`` at least ``least``.

        Of whole numbers, which jump, the second is asked alone. Written so that NaN fails.
        """
        close = self.whole or self.max_abs <= relative * max(1.0, self.largest)
        return close and (self.same is None or self.same >= least)

    def record(self) -> AgreementRecord:
        figures = {"max_abs": self.max_abs, "mean_abs": self.mean_abs, "n": self.n}
        same = {} if self.same is None else {"top1": self.same}
        return AgreementRecord(subset=self.subset, output=self.output, **figures, **same)

    def add(self, expected: np.ndarray, actual: np.ndarray, head: Head | None) -> None:
        """Take a batch [rows, ...] of both in. ``head``: whose output [rows, W] it is, where it is one's."""
        rows = len(expected)
        if expected.shape != actual.shape:
            difference = np.full((rows, 1), np.inf)
        else:
            # inf minus inf is no difference to be told by a warning: it comes out as NaN, which fails.
            with np.errstate(invalid="ignore"):
                difference = np.abs(expected.astype(np.float64) - actual).reshape(rows, -1)
        if not difference.size:
            return
        codes = head is not None and tasks.of(head).CODES
        self.whole = codes or expected.dtype.kind in "biu"
        if self.whole and not codes:
            same = float((difference == 0).mean())
        else:
            same = tasks.of(head).same(expected, actual) if head and np.isfinite(difference).all() else 0.0
        worst = np.nan_to_num(difference, nan=np.inf).max(axis=1)
        if not self.n or not float(worst.max()) <= np.nan_to_num(self.max_abs, nan=np.inf):
            self.worst = self.n + int(worst.argmax())
        share = rows / (self.n + rows)
        self.max_abs = float(np.maximum(self.max_abs, difference.max()))  # np.maximum keeps NaN
        self.mean_abs += (float(difference.mean()) - self.mean_abs) * share
        self.largest = float(np.maximum(self.largest, np.abs(expected.astype(np.float64)).max(initial=0)))
        if head or self.whole:
            self.same = same if self.same is None else self.same + (same - self.same) * share
        self.n += rows


def agreements(
    subset: str, expect: Run, actual: Run, contract: Contract, samples: Samples, present: np.ndarray
) -> list[Agreement]:
    """Compare every output of ``expect`` with the one of this name of ``actual``, over all samples; heads come first.

    ``present``: bool [n, M]. Batch by batch, since outputs may be large; what ``actual`` lacks differs by infinity.
    """
    each: dict[str, Agreement] = {}
    for wanted, found in zip(*(batched_outputs(run, samples, present) for run in (expect, actual))):
        for name in sorted(wanted, key=lambda name: name not in contract.heads):
            agreement = each.setdefault(name, Agreement(subset, name))
            agreement.add(wanted[name], found.get(name, np.empty(0)), contract.heads.get(name))
    return list(each.values())
