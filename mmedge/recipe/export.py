"""The sections ``export`` and ``measure``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, SerializeAsAny, TypeAdapter, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import TypedDict

from mmedge import backends
from mmedge.backends import GRAPH_BACKEND, Options
from mmedge.errors import did_you_mean
from mmedge.frozen import Frozen
from mmedge.recipe.section import OnMiss, StageSection


def options_by_backend() -> dict[str, type[Options]]:
    """The options that each backend takes, of those that have their own; ``Options`` are every other's."""
    found = {name: backends.find(name).options for name in backends.BACKENDS}
    return {name: options for name, options in found.items() if options is not Options}


class _ByBackend:
    """The JSON Schema of a mapping from each backend to the options that it takes."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        kinds = {name: backends.find(name).options for name in backends.BACKENDS}
        drawn = {name: handler(options.__pydantic_core_schema__) for name, options in kinds.items()}
        return {"type": "object", "properties": drawn, "additionalProperties": False}


class ZeroShot(Frozen):
    """Labels of which no sample is known, told apart by their texts (Radford et al. 2021, section 3.1)."""

    labels: tuple[str, ...] = Field(min_length=2, description="The labels, each once.")
    template: str = Field("{}", description="The text of a label, which stands where {} is: 'a picture of a {}'.")

    @model_validator(mode="after")
    def _told_apart(self) -> ZeroShot:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("'labels' names one twice")
        if "{}" not in self.template:
            raise ValueError("'template' has no place for a label: write {} where it belongs")
        return self


class Export(StageSection):
    """The engines to build."""

    targets: Annotated[dict[str, SerializeAsAny[Options]], _ByBackend] = Field(
        {GRAPH_BACKEND: Options()}, description=f"Target -> how its engine is built; of {', '.join(backends.BACKENDS)}."
    )
    per_subset: bool = Field(
        False,
        description="An engine for every smaller set of modalities, without the absent encoders, where it is faster; on a"
        ' target that cannot be timed here, where it has less to compute, noted "not measured".',
    )
    split: bool = Field(
        False, description="Encoders and fusion head apart too, for modalities that come at different rates."
    )
    towers: tuple[str, ...] = Field(
        (),
        description="Of retrieval: the towers that ship, without the others: a device that embeds pictures needs no network for"
        " texts. What is measured is the whole. Left out: all, in one engine.",
    )
    zero_shot: ZeroShot | None = Field(
        None,
        description="Of retrieval: labels whose vectors ship in the bundle, for engine.classify, which then needs no tower of"
        " texts.",
    )
    temperature: bool = Field(
        True,
        description="Whether an engine's probabilities are taken at a temperature that is fitted on validation, so that they"
        " mean what they say; no label changes by it.",
    )
    on_miss: OnMiss = Field(
        "try-next",
        description="Where an engine differs from its parent by more than its precision's tolerance, and no recipe asks for that"
        " precision. try-next: the next best one that quantization kept, FP32 at last; keep-parent: FP32; stop: the run ends,"
        " with exit code 5.",
    )
    opset: int | None = Field(
        None,
        ge=18,
        le=23,
        description="ONNX opset of the graphs that networks are exported to, for a runtime that is older or newer; 20 where"
        " null. ONNX files that are given keep their own where null, and are converted to it else.",
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _by_their_backends(cls, given: Any) -> Any:
        """Each target's options, as its own backend takes them; what only another's takes is left out: 0.1 ignored it."""
        if not isinstance(given, dict):
            return given
        for name in given:
            if name not in backends.BACKENDS:
                known = backends.BACKENDS
                raise ValueError(
                    f"there is no target {name!r}{did_you_mean(str(name), known)}; there are {', '.join(known)}"
                )
        kinds = {name: backends.find(name).options for name in given}
        anywhere = {key for options in options_by_backend().values() for key in options.model_fields}
        unheeded = {
            name: anywhere.intersection(options).difference(kinds[name].model_fields)
            for name, options in given.items()
            if isinstance(options, dict)
        }
        heeded = {
            name: {key: value for key, value in options.items() if key not in unheeded[name]}
            if name in unheeded
            else options
            for name, options in given.items()
        }
        # pydantic keeps the places of faults that are found below: they are told as if the model had found them.
        found = TypeAdapter(TypedDict("Targets", kinds)).validate_python(heeded)  # type: ignore[operator]
        return {name: options.leaving(sorted(unheeded.get(name, ()))) for name, options in found.items()}

    @field_validator("targets")
    @classmethod
    def _with_the_graph(cls, targets: dict[str, Options]) -> dict[str, Options]:
        if GRAPH_BACKEND not in targets:
            raise ValueError(f"must hold '{GRAPH_BACKEND}': its graph is the bundle's model.onnx")
        return targets

    @model_validator(mode="after")
    def _precisions_that_they_have(self) -> Export:
        for name, options in self.targets.items():
            why = backends.find(name).lacks.get(options.precision or "")
            if why:
                raise ValueError(f"{name} lacks {options.precision}: {why}")
        return self

    def parts(self) -> Mapping[str, Frozen]:
        return dict[str, Frozen](self.targets.items())

    @property
    def unheeded(self) -> dict[str, str]:
        """{key of the recipe: why it has no meaning}."""
        return {
            f"export.targets.{name}.{key}": f"{key!r} is no option of {name}, and is not heeded"
            for name, options in self.targets.items()
            for key in options.unheeded
        }

    @property
    def on_gpu(self) -> bool:
        """Whether a target is a GPU's."""
        return any(backends.find(name).gpu for name in self.targets)

    @property
    def skips_zeros(self) -> bool:
        """Whether a target computes weights of 2:4 zeros faster."""
        return any(backends.find(name).sparse for name in self.targets)

    @property
    def elsewhere(self) -> bool:
        """Whether a target is not ONNX Runtime on a CPU, and may take INT8 otherwise."""
        return any(name != GRAPH_BACKEND for name in self.targets)

    @property
    def asks_int8(self) -> bool:
        """Whether a target's own precision is INT8."""
        return any(options.precision == "int8" for options in self.targets.values())


class Report(Frozen):
    """What a report may show of the data."""

    samples: Literal["rows", "ids", "pictures"] = Field(
        "rows",
        description="How samples on which student and teacher differ are named: by their row in the run's data/test.csv,"
        " by their id too, or with pictures of images and spectrograms, and of where in them the evidence lies. Ids and"
        " pictures may be personal.",
    )
    disagreements: int = Field(20, ge=0, le=1000, description="Samples on which they differ most that are listed.")
    explained: int = Field(
        300,
        ge=0,
        le=5000,
        description="Test samples whose features before and after fusion are laid out, which takes seconds and is done"
        " once; 0 leaves features and evidence out.",
    )
    evidence: int = Field(
        6, ge=0, le=100, description="Samples whose evidence and attention are drawn, where samples are pictures."
    )


class Measure(Frozen):
    """How latency and intervals are taken."""

    batch: int = Field(1, ge=1, description="Samples a timed call.")
    threads: int = Field(1, ge=1, description="Threads of a session; one, which does not spin, is the honest default.")
    runs: int = Field(1000, ge=20, description="Timed calls of each model.")
    warmup: int = Field(50, ge=1, description="Calls before them that are not timed.")
    bootstrap: int = Field(2000, ge=100, description="Resamplings for the interval of a gain over several seeds.")
