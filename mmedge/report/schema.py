"""report.json: what stands in it, and so what a stage tells of itself. The published JSON Schema is drawn from here.

A figure that could not be measured is absent, and ``notes`` says why. Shares and ratios are below 1 where something is
smaller or faster. Fields may be added, none changes its meaning.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from mmedge.frozen import Record
from mmedge.machine import Machine
from mmedge.profiling.timing import Timing
from mmedge.report import Figures, Interval
from mmedge.report.arranged import ArrangedRecord
from mmedge.report.explained import InsideStageRecord
from mmedge.report.provenance import ProvenanceRecord, SplitCard
from mmedge.report.pruning import PruningRecord
from mmedge.report.review import ContributionsRecord, DisagreementsRecord, ReviewRecord

RunVerdict = Literal["pass", "fail", "cannot tell", "not judged"]


class QualityRecord(Record):
    """One measure of a model on a split: more is better."""

    metric: str
    value: float
    ci95: Interval = Field(description="95 % interval over independent groups of samples.")
    n: int = Field(description="Labelled samples.")
    groups: int = Field(description="Independent groups among them.")
    split: str
    method: str | None = Field(None, description="Of the interval, by its name.")
    others: dict[str, JsonValue] = Field(description="Further measures of the same outputs.")
    others_ci95: dict[str, Interval] = Field({}, description="Their 95 % intervals.")


class HeadRecord(Record):
    """One of several outputs of a model, measured on the test split."""

    quality: QualityRecord | None = None
    subsets: Figures = Field({}, description="Subset of the modalities, joined by + -> quality.")
    subsets_ci95: dict[str, Interval] = Field({}, description="Their 95 % intervals.")


class FiguresRecord(Record):
    """What was measured of a model, apart from latency. ``absent``: what was not, and why."""

    quality: QualityRecord | None = None
    subsets: Figures = {}
    subsets_ci95: dict[str, Interval] = {}
    quality_validation: QualityRecord | None = None
    subsets_validation: Figures = {}
    heads: dict[str, HeadRecord] | None = None
    absent: list[str] = []


class LatencyRecord(Timing):
    """Latency in milliseconds, of one interleaved run with all that it is compared with; ratios are of medians."""

    target: str
    batch: int
    threads: int
    ratio_to_teacher: float | None = None
    ratio_to_teacher_ci95: Interval | None = None
    ratio_to_parent: float | None = None
    ratio_to_parent_ci95: Interval | None = None
    p95_ratio_to_teacher: float | None = None
    p95_ratio_to_teacher_ci95: Interval | None = None
    p95_ratio_to_parent: float | None = None
    p95_ratio_to_parent_ci95: Interval | None = None
    p99_ratio_to_teacher: float | None = None
    p99_ratio_to_teacher_ci95: Interval | None = None
    p99_ratio_to_parent: float | None = None
    p99_ratio_to_parent_ci95: Interval | None = None


class GateRecord(Record):
    """A limit of the recipe, or a stage's own budget, judged; without a value it was not measured and does not pass."""

    name: str
    limit: float
    value: float | None = None
    ci95: Interval | None = Field(None, description="As bounds; of reports before those.")
    passed: bool
    outcome: Literal["pass", "fail", "cannot tell"] | None = None
    bounds: Interval | None = Field(
        None, description="What it was judged by, where the figure has noise; each holds with the confidence."
    )
    confidence: float | None = None
    method: str | None = Field(None, description="Of the bounds, by its name.")
    n: int | None = Field(None, description="Samples that they rest on.")
    needs: int | None = Field(None, description="About how many samples would tell, where these cannot.")
    sentence: str | None = None


class MissRecord(Record):
    """A budget that a stage could not meet, and the exit code that it asks for."""

    name: str
    limit: float
    value: float
    exit: int


class PrivacyRecord(Record):
    """What a network may tell of any one training sample: (epsilon, delta)-differential privacy, by the accountant.

    Of one sample that is there, or blank in its place.
    """

    epsilon: float = Field(
        description="Spent by all trainings of which this network was chosen, and by its teacher's where that is private."
    )
    delta: float
    noise_multiplier: float = Field(description="Standard deviation of the noise on a batch's sum, over ``clip``.")
    clip: float = Field(description="Norm that each sample's gradient was cut to.")
    sample_rate: float = Field(description="Share of the samples that a step draws, each by chance alone.")
    steps: int = Field(description="Of all the trainings.")
    trainings: int
    teacher_epsilon: float | None = Field(None, description="The part that is the teacher's.")
    accountant: str = "Renyi, by Opacus"
    not_covered: list[str] = Field(description="What the bound does not hold of.")

    def __str__(self) -> str:
        several = f" by {self.trainings} trainings of which one is kept" if self.trainings > 1 else ""
        teacher = f" ({self.teacher_epsilon:.3g} of it its teacher's)" if self.teacher_epsilon else ""
        return (
            f"private for each training sample: epsilon {self.epsilon:.3g} with delta {self.delta:.2g} spent{several}"
            f"{teacher}, noise {self.noise_multiplier:.2f}; not covered: {'; '.join(self.not_covered)}"
        )


class LearningRecord(Record):
    """A figure an epoch: the training loss, and quality and the weighed selection on validation."""

    loss: list[float]
    quality: list[float]
    selection: list[float]


class AgreementRecord(Record):
    """How far a graph's output is from its parent's, over all samples of a subset of the modalities."""

    subset: str
    output: str
    max_abs: float
    mean_abs: float
    top1: float | None = Field(None, description="Share of samples with the same largest output.")
    n: int


class DecisionRecord(Record):
    """Whether the student that ships was distilled, by validation alone."""

    kept: Literal["distilled", "control"]
    said: str
    gain: float | None = None
    gain_ci95: Interval | None = None


class TriedLossRecord(Record):
    """A loss that was tried in one seed."""

    loss: dict[str, JsonValue]
    selection: float
    kept: bool


class CurveRecord(Record):
    """The change of the ranges when samples were added, to so many."""

    samples: int
    change: float


class CalibrationRecord(Record):
    """What INT8 was calibrated on. ``curve``: how much the ranges changed each time that samples were added."""

    samples: int
    gaps: list[str] = Field(description="What these samples do not show of the data.")
    curve: list[CurveRecord] | None = None


class TemperatureRecord(Record):
    """What a head's outputs are divided by before they become probabilities, fitted on validation; and what it does on test."""

    temperature: float
    ece_before: float = Field(description="Expected calibration error without it.")
    ece_before_ci95: Interval
    ece: float = Field(description="With it, as an app gets them.")
    ece_ci95: Interval
    n: int

    def __str__(self) -> str:
        before, after = (f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, (low, high) in ((self.ece_before, self.ece_before_ci95), (self.ece, self.ece_ci95)))  # fmt: skip
        return f"probabilities at temperature {self.temperature:.3g}: expected calibration error {before} before, {after} after, n = {self.n}"


class FusionPointRecord(Record):
    """A node where branches of several scales join in INT8, and one of the branches."""

    node: str
    kind: str
    branch: str
    scale: float
    own_scale: float = Field(description="What the largest of its values ask for.")
    codes: float = Field(description="Share of the 256 codes between its extremes.")
    clipped: float = Field(description="Share of its values beyond the range.")
    apart: bool = Field(description="It was given its own scale.")


class LayersRecord(Record):
    """The weighted layers that a graph has in INT8, and which of them ONNX Runtime computes in float, with the reason."""

    asked: int
    int8: int
    float_layers: dict[str, str]
    unexplained: list[str]
    open_pairs: list[str] = Field(
        [], description="Tensors that are quantized and made float at once: no kernel takes codes."
    )


class CandidateRecord(Record):
    """A precision that was tried. Drops are against FP32 on the validation split."""

    precision: str
    quality_validation: float
    subsets_validation: Figures = {}
    n: int
    drop: float
    drop_ci95: Interval
    drop_bound: float | None = Field(None, description="The most that it may truly lose; must be inside the budget.")
    ci95: Interval | None = None
    p50_ms: float
    energy_mj: float | None = Field(
        None, description="Of a call, where energy is preferred and the machine tells of it."
    )
    ratio_to_fp32: float
    size_bytes: int
    kept: bool
    unproven: bool = Field(False, description="What it loses is inside the budget, the most that it may lose is not.")
    why: str
    int8_kernels: dict[str, int] | None = None
    int8_layers: LayersRecord | None = None
    saturation: float | None = None


class UnmadeRecord(Record):
    """A precision that lost before it could be measured: it could not be made, or does not run."""

    precision: str
    kept: Literal[False]
    why: str


class LayerGroupRecord(Record):
    """Layers that were judged together: the error of the outputs with these alone in INT8, 0 to 1."""

    label: str
    branch: str
    kind: str
    error: float
    fp32: bool = Field(description="They were taken back to FP32.")


class SensitivityRecord(Record):
    """What each layer and each branch loses in INT8, and whether a mix of INT8 and FP32 was found."""

    found: bool
    said: str
    groups: list[LayerGroupRecord]
    branches: Figures
    float_anyway: dict[str, str]
    int8_layers: int
    layers: int
    evaluations: int
    seconds: float
    base: str


class ChoiceRecord(Record):
    """What came of the candidates, and the one that is taken."""

    candidates: list[CandidateRecord | UnmadeRecord]
    precision: str
    notes: list[str]
    misses: list[MissRecord] = []
    temperatures: dict[str, TemperatureRecord] | None = Field(
        None, description="Head -> what its probabilities are taken at."
    )
    fusion_points: list[FusionPointRecord] | None = None
    sensitivity: SensitivityRecord | None = None


class StageRecord(Record):
    """One stage of a run: what it made, what was measured of that, and how it was judged."""

    stage: str
    status: Literal["ran", "cached", "skipped"]
    gates: list[GateRecord] = []
    notes: list[str] = []
    parent: str | None = Field(None, description="sha256 of the artifact that it was made of.")
    artifact: str | None = Field(None, description="Its folder, relative to the report.")
    sha256: str | None = None
    size_bytes: int | None = None
    seconds: float | None = None
    params: int | None = None
    macs: int | None = None
    learning: LearningRecord | None = None
    privacy: PrivacyRecord | None = Field(None, description="Where it was trained privately, or made of what was.")
    quality: QualityRecord | None = Field(None, description="On the test split.")
    subsets: Figures | None = None
    subsets_ci95: dict[str, Interval] | None = None
    quality_validation: QualityRecord | None = None
    subsets_validation: Figures | None = None
    heads: dict[str, HeadRecord] | None = Field(None, description="Where the model has several outputs.")
    latency: LatencyRecord | None = None
    decision: DecisionRecord | None = None
    losses: list[TriedLossRecord] | None = None
    pruning: PruningRecord | None = None
    precision: str | None = None
    candidates: list[CandidateRecord | UnmadeRecord] | None = None
    calibration: CalibrationRecord | None = None
    temperatures: dict[str, TemperatureRecord] | None = Field(
        None, description="Head -> what its probabilities are taken at."
    )
    fusion_points: list[FusionPointRecord] | None = None
    sensitivity: SensitivityRecord | None = None
    verification: list[AgreementRecord] | None = None
    review: dict[str, ReviewRecord] | None = Field(
        None, description="Head -> what a reviewer asks, of teacher and bundle."
    )


class ControlRecord(Record):
    """What a control says on the test split: ``gain`` is what the other side has more than it, over all seeds."""

    name: str
    quality: QualityRecord
    gain: float
    gain_ci95: Interval
    gain_median: float
    seeds: int
    distilled_by_seed: list[float]
    control_by_seed: list[float]
    notes: list[str]


class BaselineRecord(Record):
    """A linear model of the same inputs, trained in ``seconds``: what a network must be better than."""

    quality: QualityRecord = Field(description="On the test split.")
    inputs: dict[str, str] = Field(description="Modality -> what the linear model is given of it.")
    rows: int | None = Field(
        None, description="Training samples that it learned from: no more than some seconds allow."
    )
    seconds: float


class DataRecord(ArrangedRecord):
    """The data of a run; ``train``, ``validation`` and ``test`` count samples."""

    sha256: str
    source: str
    train: int
    validation: int
    test: int
    splits: dict[str, SplitCard] | None = Field(None, description="Split -> its card.")


class Report(Record):
    """report.json of a run."""

    schema_: Literal[1] = Field(1, alias="schema")
    mmedge: str = Field(description="The version that wrote it.")
    recipe: dict[str, JsonValue] = Field(description="The whole recipe, paths as names of files.")
    seed: int
    machine: Machine
    data: DataRecord
    stages: list[StageRecord]
    controls: list[ControlRecord]
    provenance: ProvenanceRecord | None = Field(None, description="What it was made by.")
    disagreements: DisagreementsRecord | None = None
    contributions: list[ContributionsRecord] | None = Field(None, description="A head each, of what ships.")
    inside: InsideStageRecord | None = Field(None, description="Of the network that what ships was made of.")
    baseline: BaselineRecord | None = None
    verdict: RunVerdict = Field(description="Of all gates; 'not judged' where there were none.")
