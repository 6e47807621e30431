"""What ``mmedge explain`` finds of a model on some samples: explanation.json, from which its page is drawn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmedge.frozen import Record
from mmedge.report import Interval
from mmedge.report.review import ContributionsRecord


class SampleRecord(Record):
    """One sample that has every modality: its score, as of ContributionsRecord, and what each modality adds to that."""

    row: int = Field(description="In the table, from 1.")
    id: str | None = None
    head: str
    target: str
    given: str
    score: float
    shapley: dict[str, float]
    ablation: dict[str, float] = Field(description="Modality -> what the score loses where it alone is withheld.")


class SaliencyRecord(Record):
    """Where in a sample's inputs the evidence for what the model gave lies, by integrated gradients.

    ``pictures``: modality -> data URI, the input in grey, red where evidence is for it and blue where against;
    ``shares``: modality -> its share of all evidence. ``gap``: how far the evidence misses the change of the output from
    the baseline, 0 for a whole integral. ``grad_cam``: modality -> data URI, red where the last convolutional map of it
    speaks for what was given.
    """

    row: int
    id: str | None = None
    head: str
    target: str | None = Field(None, description="What is right, where that is known.")
    given: str
    pictures: dict[str, str]
    shares: dict[str, float]
    gap: float
    grad_cam: dict[str, str] | None = None


class AttentionRecord(Record):
    """What one attention layer attends to on a sample, the mean over its heads, as a picture: a row a query, dark where it attends."""

    row: int
    layer: str
    queries: int
    keys: int
    picture: str


class EmbeddingRecord(Record):
    """Features of the samples in two dimensions, by t-SNE: a point a sample."""

    place: str = Field(description="A modality, as its encoder gives it, or fusion: what the head is given.")
    x: list[float]
    y: list[float]
    labels: list[str] = Field(description="A sample's label, or its number; ? where that is unknown.")
    alike: float | None = Field(
        None, description="The share of a sample's five nearest, by all features, that have its label; of labels only."
    )
    alike_ci95: Interval | None = Field(None, description="Over independent groups of samples.")


class InsideRecord(Record):
    """What was seen inside a network. ``notes``: what could not be, and why."""

    saliency: list[SaliencyRecord]
    attention: list[AttentionRecord]
    embeddings: list[EmbeddingRecord]
    notes: list[str]


class InsideStageRecord(InsideRecord):
    """The same of a stage of a run, on ``n`` samples of a split; it took ``seconds``."""

    stage: str
    split: str
    n: int
    seconds: float


class ExplanationRecord(InsideRecord):
    """explanation.json."""

    schema_: Literal[1] = Field(1, alias="schema")
    mmedge: str
    artifact: str
    sha256: str
    table: str
    samples: int
    targets: Literal["labels", "outputs"] = Field(
        description="What scores are of: labels, or what the model itself gave."
    )
    contributions: list[ContributionsRecord]
    each: list[SampleRecord]
