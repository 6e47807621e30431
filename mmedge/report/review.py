"""What a reviewer asks of a head's outputs on the test split, as it stands in report.json: the page draws it from here."""

from __future__ import annotations

from pydantic import Field

from mmedge.frozen import Record
from mmedge.report import Interval


class LabelRecord(Record):
    """One label of a head: how often it was there, and how often it was found."""

    label: str
    n: int = Field(description="Samples that have it.")
    recall: float | None = Field(None, description="The share of them that were given it; absent where none has it.")
    recall_ci95: Interval | None = Field(None, description="Over independent groups of samples.")
    precision: float | None = Field(None, description="The share of those given it that have it.")
    precision_ci95: Interval | None = None
    average_precision: float | None = Field(None, description="The area under precision and recall.")
    average_precision_ci95: Interval | None = None
    auc: float | None = Field(None, description="The area under the ROC curve.")
    auc_ci95: Interval | None = None


class ConfusedRecord(Record):
    """How many samples of a target were given a label; pairs that never occur are absent."""

    target: str
    chosen: str
    n: int


class BinRecord(Record):
    """The outputs whose probability lies in one bin; the bins hold as many outputs each, as near as equal ones allow."""

    low: float = Field(description="The least probability in it.")
    high: float = Field(description="The largest.")
    n: int
    confidence: float = Field(description="Their mean probability.")
    right: float = Field(description="The share of them that was right.")


class ReliabilityRecord(Record):
    """Whether probabilities are what they say (Guo et al. 2017, "On calibration of modern neural networks")."""

    ece: float = Field(description="Expected calibration error: the mean distance of both, weighed by samples.")
    bins: list[BinRecord]


class RankingRecord(Record):
    """One label against all others at every threshold, thinned to some 50 points: two curves."""

    label: str
    recall: list[float]
    precision: list[float]
    false_positive_rate: list[float]
    true_positive_rate: list[float]


class ScatterRecord(Record):
    """Numbers, in the targets' own unit: of at most 1,000 samples, evenly taken."""

    target: list[float]
    predicted: list[float]


class PairRecord(Record):
    """A target array and what was predicted of it, [frames][numbers of a frame], as long as the target, thinned."""

    row: int = Field(description="Its row in data/test.csv of the run's folder, from 1.")
    target: list[list[float]]
    predicted: list[list[float]]


class ReviewRecord(Record):
    """One head of one stage on the test split; what its task has no use for is absent."""

    split: str
    n: int
    labels: list[LabelRecord] | None = None
    confusion: list[ConfusedRecord] | None = None
    reliability: ReliabilityRecord | None = None
    rankings: list[RankingRecord] | None = Field(None, description="Of the most frequent labels, at most 12.")
    scatter: ScatterRecord | None = None
    pairs: list[PairRecord] | None = Field(None, description="Of arrays: some samples, from all over.")
    scatters: dict[str, ScatterRecord] | None = Field(None, description="Of several numbers, each by its name.")


class OpinionRecord(Record):
    """What a model gave for one sample. ``sure``: the probability of it, where outputs tell one."""

    given: str
    right: bool | None = Field(None, description="Absent for numbers.")
    sure: float | None = None


class DisagreementRecord(Record):
    """A sample of the test split on which two stages differ most."""

    row: int = Field(description="Its row in data/test.csv of the run's folder, from 1.")
    id: str | None = Field(None, description="Only where the recipe's report.samples allows it.")
    head: str
    distance: float = Field(
        description="Total variation of the probabilities, or |difference| in the target's deviations."
    )
    target: str
    first: OpinionRecord
    second: OpinionRecord
    pictures: dict[str, str] | None = Field(None, description="Modality -> data URI, where the recipe allows it.")


class DisagreementsRecord(Record):
    """Where the ``second`` stage (what ships) differs from the ``first`` (the teacher), over the labelled test samples."""

    first: str
    second: str
    n: int
    lost: int | None = Field(None, description="Right by the first, wrong by the second.")
    won: int | None = Field(None, description="Wrong by the first, right by the second.")
    samples: list[DisagreementRecord]


class ShareRecord(Record):
    """What one modality adds to a head's score of a sample: see ContributionsRecord."""

    modality: str
    shapley: float = Field(description="Its mean marginal gain over all orders in which modalities are added.")
    shapley_ci95: Interval = Field(description="Over independent groups of samples.")
    alone: float = Field(description="What it gains from nothing.")
    alone_ci95: Interval | None = None
    ablation: float = Field(description="What is lost where it alone is withheld.")
    ablation_ci95: Interval | None = None


class ContributionsRecord(Record):
    """What each modality contributes to a head: exact Shapley values over all subsets of the modalities.

    A sample's score is the probability of its target (of labels that do not exclude each other, the mean probability of
    what is right; of numbers, minus the error in the target's deviations), over samples that have every modality. With
    nothing given it is the score of a constant: the labels' shares, or the mean. ``shapley`` adds up to ``whole`` minus
    ``nothing``.
    """

    stage: str
    head: str
    n: int
    nothing: float
    whole: float
    modalities: list[ShareRecord]
    labels: dict[str, dict[str, float]] | None = Field(None, description="Label -> modality -> mean Shapley value.")
    labels_n: dict[str, int] | None = Field(None, description="Label -> samples.")
    labels_ci95: dict[str, dict[str, Interval]] | None = Field(
        None, description="Of the 20 most frequent labels, over independent groups of samples."
    )
