"""What the search and the stage share: one parent, its measured costs and scores, cuts of it, and their recovery."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import Tensor, nn

from mmedge.artifact import GRAPH, Artifact, hash_json
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.graph.export import export
from mmedge.graph.narrowed import narrowed
from mmedge.measure.budget import WHOLE, Losses, SplitOutputs, losses_of, split_outputs
from mmedge.measure.cost import macs, params
from mmedge.measure.latency import Ratio, one_sample, ratios_to
from mmedge.measure.quality import balanced, graph_predictor, module_run, score, subset_scores
from mmedge.models.load import contract_of
from mmedge.recipe import Distill, Prune, Train
from mmedge.report.pruning import ScoreRecord
from mmedge.stages.prune.groups import ChannelGroup, cut, working_together
from mmedge.training.context import Context
from mmedge.training.loop import processes
from mmedge.training.loop.batches import Training, batches
from mmedge.training.loop.fit import Fitted, fit
from mmedge.training.objectives import Distillation, Supervised
from mmedge.training.teaching.taught import taught_samples, teacher_for, teaching_of
from mmedge.training.teaching.teachers import Teacher

T = TypeVar("T")
_TAYLOR_STEPS = 16


class Scores(ScoreRecord):
    """Scores on the validation split, and ``overall``, the one figure to choose by.

    ``outputs``: of the whole and of every subset, by which a loss has its bounds; None where the scores were remembered.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    overall: float
    outputs: SplitOutputs | None = Field(None, exclude=True, repr=False)


@dataclass(frozen=True)
class PruneWork:
    """One parent at work. Whatever was measured is kept in ``context.work``, so that an interrupted stage goes on.

    ``whole``: the parent's MACs and parameters. ``teacher``: the run's, which may be the parent itself, unpruned; None
    where there is none. ``refused``: {layer: why} of the groups that a cut had to leave whole.
    """

    parent: Artifact
    contract: Contract
    config: Prune
    context: Context
    train: Samples
    validation: Samples
    teacher: Teacher | None
    teaching: Distill
    whole: dict[str, int]
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def beginning(self) -> str:
        """Of the names of all files that are kept: a network without blocks, or with layers in factors, has figures of its own."""
        return ("shallower-" if self.config.depth else "") + ("factored-" if self.config.rank else "")

    def remembered(self, what: str, key: Any, kind: type[T], compute: Callable[[], T]) -> T:
        """A value of the type ``kind``, kept as JSON, that is computed once, whatever interrupts the stage.

        Of several processes all call ``compute``, which may train, or none does; the main one's value is everybody's.
        """
        path = self.context.work / f"{self.beginning}{what}-{hash_json(key)[:16]}.json"
        adapter: TypeAdapter[T] = TypeAdapter(kind)
        made = processes.remembered(path, lambda: adapter.dump_python(compute(), mode="json"))
        return adapter.validate_python(made)

    def shares(self, module: nn.Module) -> dict[str, float]:
        """What is left of the parent's MACs and parameters."""
        return {name: count / self.whole[name] for name, count in _counted(module, self.contract).items()}

    def narrowed(
        self, module: nn.Module, groups: Sequence[ChannelGroup], keep: Mapping[str, int]
    ) -> tuple[nn.Module, list[Any]]:
        """A copy of ``module`` with only ``keep`` units in each group, and the history of it.

        Groups with which it would no longer run stay whole; ``refused`` gets why.
        """
        narrower = [group for group in groups if keep[group.root] < len(group.units)]
        working, left = working_together(module, self.contract, narrower, keep)
        self.refused.update(left)
        trial = copy.deepcopy(module)
        return trial, cut(trial, self.contract, working, keep)

    def recovered(
        self, module: nn.Module, train: Train, name: str, task: str, held: Mapping[str, Tensor] | None = None
    ) -> Fitted:
        """Train ``module`` in place with the teacher, or with the labels alone where there is none to learn from.

        ``held``: {parameter: which of its weights there are}; the others are zero, from the beginning on.
        """
        torch.manual_seed(self.context.recipe.seed)
        # The copy takes the hooks of the hints, so that the module itself can still be copied and cut.
        student = copy.deepcopy(module)
        for parameter, mask in (held or {}).items():
            weight = student.get_parameter(parameter)
            weight.data.mul_(mask)
            weight.register_hook(mask.mul)  # without gradients they stay what they are
        fitted = fit(
            student,
            self.objective(student, train),
            self.training(train),
            state=self.context.work / f"{self.beginning}{name}.safetensors",
            task=task,
            progress=self.context.progress,
            log=self.context.log(name),
        )
        module.load_state_dict(student.state_dict())
        for parameter, mask in (held or {}).items():
            module.get_parameter(parameter).data.mul_(mask)  # -0 is 0
        module.eval()
        return fitted

    def training(self, train: Train) -> Training:
        """What recovery trains on: all samples with a teacher, else the labelled ones."""
        usable = np.arange(len(self.train)) if self.teacher is not None else np.flatnonzero(self.train.labelled)
        seed = self.context.recipe.seed
        return Training(
            self.contract,
            self.train,
            self.validation,
            train,
            usable,
            seed,
            seed,
            reading=self.context.dataset.reading,
        )

    def objective(self, student: nn.Module, train: Train) -> Any:
        if self.teacher is None:
            return Supervised(self.contract, train)
        return Distillation(student, self.teacher, self.contract, self.teaching.loss, train)

    def losses_over(self, student: nn.Module, steps: int) -> Iterator[Any]:
        """The run's own loss of ``student``, a copy that may get hooks, over so many training batches."""
        objective = self.objective(student, self.config.train)
        drawn = batches(self.training(self.config.train), epoch=0)
        return (objective(student, batch) for _, batch in zip(range(steps), drawn))

    def fill_gradients(self, module: nn.Module) -> None:
        """Mean gradients of the run's own loss over training batches, on ``module``'s parameters: what ``taylor`` needs."""
        student = copy.deepcopy(module).eval()
        student.zero_grad()
        for loss in self.losses_over(student, _TAYLOR_STEPS):
            loss.backward()
        for own, copied in zip(module.parameters(), student.parameters()):
            own.grad = torch.zeros_like(own) if copied.grad is None else copied.grad.detach()

    def judged(self, module: nn.Module) -> Scores:
        """Scores of ``module`` on the validation split; of several processes the main one's, since they decide."""
        return processes.of_main(lambda: self._judged(module))

    def _judged(self, module: nn.Module) -> Scores:
        module.eval()
        predict = graph_predictor(module_run(module), self.contract, self.validation)
        output = split_outputs(self.contract, self.validation, predict)
        quality = score(self.contract, output[WHOLE][1], self.validation.targets)
        subsets = subset_scores(self.contract, self.validation, predict)
        overall = balanced(quality, list(subsets.values()))
        return Scores(quality=quality, subsets=subsets, overall=overall, outputs=output)

    def losses(self, before: Scores, after: Scores, tail: float) -> Losses:
        """What the whole and every subset lost, paired by sample; each bound leaves out ``tail``."""
        assert before.outputs is not None and after.outputs is not None
        return losses_of(self.contract, self.validation)(before.outputs, after.outputs, tail)

    def latencies(self, modules: Mapping[str, nn.Module]) -> dict[str, Ratio]:
        """{name: latency over the parent's}: the graphs of all, timed in one interleaved run with the parent's.

        Of several processes the main one measures: each would find another latency, and so cut another plan.
        """
        return processes.of_main(lambda: self._latencies(modules))

    def _latencies(self, modules: Mapping[str, nn.Module]) -> dict[str, Ratio]:
        folder = self.context.work / "timed"
        folder.mkdir(parents=True, exist_ok=True)
        parent, graphs = self.parent.file(GRAPH), dict[str, Path]()
        measure = self.context.recipe.measure
        inputs = one_sample(self.validation, measure.batch)
        for number, (name, module) in enumerate(modules.items()):
            self.context.progress.step("exporting what is to be timed", number, len(modules), name)
            graphs[name] = folder / f"{number}.onnx"
            if not narrowed(parent, module, inputs, graphs[name]):
                export(module, self.contract, graphs[name])
        found = ratios_to(parent, graphs, inputs, measure, self.context.progress)
        for graph in graphs.values():
            graph.unlink()
        return found


def work_on(parent: Artifact, module: nn.Module, config: Prune, context: Context) -> PruneWork:
    """All that pruning ``parent``, whose model is ``module``, needs: data as the student may see it, and the teacher."""
    contract, (teaching, helped) = contract_of(parent), teaching_of(parent, context)
    return PruneWork(
        parent,
        contract,
        config,
        context,
        taught_samples(teaching, context, contract),
        context.dataset.validation.only(tuple(contract.modalities)),
        teacher_for(teaching, context, config.train, fits=max(2, config.steps)) if helped else None,
        teaching,
        _counted(module, contract),
    )


def _counted(module: nn.Module, contract: Contract) -> dict[str, int]:
    return {"macs": macs(module, contract), "params": params(module)}
