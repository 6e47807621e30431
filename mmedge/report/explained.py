"""What ``mmedge explain`` finds of a model on some samples: explanation.json, from which its page is drawn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmedge.frozen import Record
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
    the baseline, 0 for a whole integral.
    """

    row: int
    head: str
    given: str
    pictures: dict[str, str]
    shares: dict[str, float]
    gap: float


class AttentionRecord(Record):
    """What one attention layer attends to on a sample, the mean over its heads, as a picture: a row a query, dark where it attends."""

    row: int
    layer: str
    queries: int
    keys: int
    picture: str


class EmbeddingRecord(Record):
    """Features of the samples in two dimensions, by t-SNE: a point a sample."""

    place: str = Field(description="A modality's encoder, or fusion.")
    x: list[float]
    y: list[float]
    labels: list[str]


class ExplanationRecord(Record):
    """explanation.json. ``notes``: what could not be explained, and why."""

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
    saliency: list[SaliencyRecord]
    attention: list[AttentionRecord]
    embeddings: list[EmbeddingRecord]
    notes: list[str]
