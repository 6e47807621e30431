"""What a run's networks give for its samples: each graph is run once on a split and a subset, whoever asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmedge.artifact import Artifact, contract_of, hash_json
from mmedge.backends import opened
from mmedge.contract import Contract
from mmedge.data.outputs import OUTPUTS_FILE, stored_outputs
from mmedge.data.store.samples import Samples
from mmedge.measure.baseline import linear_outputs
from mmedge.measure.classes import ClassMap, class_map
from mmedge.measure.quality import Outputs, Predict, Run, computed_once, module_run, placing, predict_graph
from mmedge.measure.temperature import temperatures
from mmedge.pipeline.ran import Ran
from mmedge.stages.results import TORCH
from mmedge.training.context import Context

_THREADS = 2
# (the data's contract as far as a network has it, the samples of a split that there are outputs of, what gives these).
Predicted = tuple[Contract, Samples, Predict]


@dataclass(frozen=True)
class Predictions:
    """The outputs of a run's artifacts, in the data's classes. Two of the same graph are one."""

    context: Context
    _known: dict[str, Predict] = field(default_factory=dict)
    _temperatures: dict[str, dict[str, float]] = field(default_factory=dict)
    _placed: dict[Predict, Predict] = field(default_factory=dict)
    _engines: dict[str, _Engine] = field(default_factory=dict)
    _linear: dict[tuple[str, ...], tuple[Outputs, float]] = field(default_factory=dict)

    def of(self, done: Ran, artifact: Artifact, split: str = "test") -> Predicted:
        """What a stage's network gives for a split, to be judged. Of a file of outputs that is the same, whatever is present."""
        contract, samples, given = self.given(done, artifact, split)
        if given not in self._placed:
            self._placed[given] = placing(given, contract, samples)
        return contract, samples, self._placed[given]

    def given(self, done: Ran, artifact: Artifact, split: str = "test") -> Predicted:
        """The same as it is given, to be looked at."""
        classes, dataset = classes_of(done, artifact, self.context), self.context.dataset
        if is_outputs(artifact):
            stored, contract, samples = (
                stored_outputs(artifact.file(OUTPUTS_FILE)),
                dataset.contract,
                getattr(dataset, split),
            )
            rows = stored.rows(samples.ids)
            outputs: Outputs = {contract.output: stored.logits[rows[rows >= 0]]}
            spread = classes.spread(outputs) if classes else outputs
            return contract, samples.taken(np.flatnonzero(rows >= 0)), lambda present: spread
        own = contract_of(artifact)
        seen = dataset.preprocessed(own.modalities, self.context.progress)
        samples = getattr(seen, split).only(tuple(own.modalities))
        contract = dataset.contract.only(tuple(samples.inputs)) if classes else own
        opening, graph = self._graph(artifact)
        key = hash_json([graph, own.model_dump(mode="json", by_alias=True), classes.to if classes else None, split])
        if key not in self._known:
            engine = self._engines.setdefault(graph, _Engine(opening))
            self._known[key] = _in_the_datas_classes(
                computed_once(lambda present: predict_graph(engine, own, samples, present)), classes
            )
        return contract, samples, self._known[key]

    def temperatures(self, done: Ran, artifact: Artifact) -> dict[str, float]:
        """{head: the temperature of its probabilities} of an engine, fitted on validation once; none where the recipe wants none."""
        wanted = self.context.recipe.export.temperature
        if not wanted or not done.step.ends or is_outputs(artifact):
            return {}
        if artifact.sha256 not in self._temperatures:
            contract, samples, predict = self.given(done, artifact, "validation")
            self._temperatures[artifact.sha256] = temperatures(contract, predict(samples.present), samples)
        return self._temperatures[artifact.sha256]

    def linear(self, names: tuple[str, ...]) -> tuple[Outputs, float]:
        """(outputs on test, seconds) of the linear model of these modalities, trained once."""
        if names not in self._linear:
            dataset, began = self.context.dataset, time.monotonic()
            train, test = (split.only(names) for split in (dataset.train, dataset.test))
            (outputs,) = linear_outputs(dataset.contract.only(names), train, [test], self.context.recipe.seed)
            self._linear[names] = outputs, time.monotonic() - began
        return self._linear[names]

    def close(self) -> None:
        """Let go of the engines, not of what they gave: large ones together would fill the memory."""
        for engine in self._engines.values():
            engine.run = None

    def _graph(self, artifact: Artifact) -> tuple[Callable[[], Run], str]:
        """(what opens the graph that is measured, what tells it from others: its files' hashes and where it runs)."""
        from mmedge.stages import export

        if artifact.meta.get("target") == TORCH:
            return lambda: module_run(self.context.rebuild(artifact)), artifact.sha256
        file, backend = export.measured_file(artifact)
        folder = file.parent.relative_to(artifact.path)
        near = {Path(name).name: sha for name, sha in artifact.files.items() if Path(name).parent == folder}
        own = [sha for name, sha in sorted(near.items()) if Path(name).stem == file.stem or name.startswith(file.name)]
        return lambda: opened(file, backend, threads=_THREADS), hash_json([own, backend])


def is_outputs(artifact: Artifact) -> bool:
    """Whether it is a file of outputs, without a graph."""
    return artifact.file(OUTPUTS_FILE).is_file()


def classes_of(done: Ran, artifact: Artifact, context: Context) -> ClassMap | None:
    """What a teacher's classes mean, where they are not the data's; every other stage has the data's."""
    if done.step.row.role != "teacher":
        return None
    return class_map(contract_of(artifact), context.dataset.contract, done.step.config.classes, "teacher.classes")


@dataclass
class _Engine:
    """A network that is opened when it is first run: what was measured before needs none."""

    opening: Callable[[], Run]
    run: Run | None = None

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if self.run is None:
            self.run = self.opening()
        return self.run(inputs)


def _in_the_datas_classes(predict: Predict, classes: ClassMap | None) -> Predict:
    return computed_once(lambda present: classes.spread(predict(present))) if classes else predict
