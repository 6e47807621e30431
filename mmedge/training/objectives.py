"""What the training loop minimises: labels alone, or labels and a teacher."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmedge.graph.trace import example
from mmedge.models.fusion import repeated
from mmedge.recipe import Hint, Loss, Schedule, Train
from mmedge.spec import Contract
from mmedge.training.loop.batches import Batch
from mmedge.training.losses import distillation
from mmedge.training.losses.labels import label_loss
from mmedge.training.teaching.layers import Layer, check_pair
from mmedge.training.teaching.teachers import Taught, Teacher

_SHARED = 128


def supervised(contract: Contract, train: Train):
    """Loss over the labelled samples of a batch."""

    def objective(module: nn.Module, batch: Batch) -> Tensor:
        return _labels(module(present=batch.present, **batch.inputs)[contract.output], batch, contract, train)

    return objective


class Distillation(nn.Module):
    """Labels where there are any, the teacher's logits, and its hints, each through what its kind needs.

    The teacher answers for the full input whatever the student is shown or takes: the full teacher teaches the subsets.
    Projections are parameters of the objective; they are trained along and left behind.
    """

    def __init__(self, student: nn.Module, teacher: Teacher, contract: Contract, loss: Loss, train: Train) -> None:
        super().__init__()
        self._teacher, self._contract, self._loss, self._train = teacher, contract, loss, train
        self._layers = [Layer(student, hint.student, hint.kind, "student") for hint in loss.hints]
        if self._layers:
            with torch.no_grad():
                student.eval()(**example(contract, 1))
        widths = zip(self._layers, teacher.widths, loss.hints)
        self._columns = None if teacher.columns is None else torch.from_numpy(teacher.columns)
        # The place of each of the student's classes among the teacher's; -1 where the teacher does not know it.
        self._places = torch.full((contract.outputs,), -1)
        if self._columns is not None:
            self._places[self._columns] = torch.arange(len(self._columns))
        self.project = nn.ModuleList(_Projection(hint, layer.take(1).shape[1], width) for layer, width, hint in widths)

    def forward(self, student: nn.Module, batch: Batch) -> Tensor:
        output = student(present=batch.present, **batch.inputs)[self._contract.output]
        answer = self._teacher.outputs(batch, output.device)
        loss = self._loss
        total = loss.labels * _labels(output, batch, self._contract, self._train)
        if loss.logits:
            of_logits = self._of_logits(output, answer.repeated(batch.answers), repeated(batch.targets, batch.answers))
            total = total + loss.logits * scheduled(loss.schedule, batch.passed) * of_logits
        for hint, layer, project, theirs in zip(loss.hints, self._layers, self.project, answer.hints):
            weight = hint.weight * scheduled(hint.schedule or loss.schedule, batch.passed)
            ours = layer.take(len(output), len(batch.index))
            # The answers to one sample are no samples of their own: contrasts and relations are within one of its k.
            each = range(len(ours) // len(theirs))
            total = total + weight * sum(_hint_loss(hint, *project(ours[k :: len(each)], theirs)) for k in each) / len(
                each
            )
        return total

    def _of_logits(self, output: Tensor, answer: Taught, targets: Tensor) -> Tensor:
        """The logit loss over the samples and the classes that the teacher knows, divided by the whole batch.

        Student and teacher are compared given that the class is one of the teacher's: a softmax over those alone, which
        moves no probability from or to the others. A sample whose label is another class is not taught.
        """
        rows = answer.rows
        if self._columns is not None:
            output = output.index_select(1, self._columns.to(output.device))
        if self._columns is not None and targets.dim() == 1:  # of several labels, none excludes the teacher's
            places = self._places.to(targets.device)[targets.clamp(min=0)]
            foreign = (targets >= 0) & (places < 0)
            rows = ~foreign if rows is None else rows & ~foreign
            targets = torch.where(targets >= 0, places, targets)
        output, logits, share = _standard(output, self._contract), _standard(answer.logits, self._contract), 1.0
        if rows is not None:
            if not rows.any():
                return output.sum() * 0
            output, logits, targets, share = output[rows], logits[rows], targets[rows], float(rows.float().mean())
        loss = self._loss
        return share * distillation.logit_loss(
            output,
            logits,
            targets,
            kind=loss.kind,
            temperature=loss.temperature,
            beta=loss.beta,
            task=self._contract.task,
        )


def scheduled(schedule: Schedule, passed: float) -> float:
    """The factor of a weight when ``passed`` (0 to 1) of the epochs lie behind."""
    match schedule:
        case "linear":
            return 1 - passed
        case "rise":
            return passed
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * passed))
    return 1.0


def _standard(x: Tensor, contract: Contract) -> Tensor:
    """A regression's values in standard units, so that the loss's parts weigh the same whatever the target's unit."""
    return (x - contract.target_mean) / contract.target_std if contract.task == "regression" else x


def _labels(output: Tensor, batch: Batch, contract: Contract, train: Train) -> Tensor:
    targets = repeated(batch.targets, batch.answers)
    weights = None if batch.weights is None else repeated(batch.weights, batch.answers)
    if contract.task == "regression":
        output, targets = _standard(output, contract), _standard(targets, contract)
    return label_loss(output, targets, train.label_smoothing, weights, train.focal_gamma)


class _Projection(nn.Module):
    """Brings both sides into one space: the student to the teacher's width, or, to be contrasted, both to a shared one.

    The shared space of ``contrastive`` has at most 128 dimensions (Tian et al. 2020). Relations and attention maps
    are compared as they are.
    """

    def __init__(self, hint: Hint, student: int, teacher: int) -> None:
        super().__init__()
        check_pair(hint, student, teacher)
        shared = min(_SHARED, teacher)
        self.student: nn.Module = nn.Identity()
        self.teacher: nn.Module = nn.Identity()
        if hint.kind == "contrastive":
            self.student, self.teacher = nn.Linear(student, shared), nn.Linear(teacher, shared)
        elif hint.kind == "features":
            self.student = nn.Linear(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """float [batch, f] each -> the same in one space."""
        return self.student(student), self.teacher(teacher)


def _hint_loss(hint: Hint, student: Tensor, teacher: Tensor) -> Tensor:
    match hint.kind:
        case "features":
            return distillation.features(student, teacher)
        case "attention":
            return distillation.attention(student, teacher)
        case "relations":
            return distillation.relations(student, teacher)
        case "contrastive":
            return distillation.contrastive(student, teacher)
