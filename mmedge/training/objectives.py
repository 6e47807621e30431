"""What the training loop minimises: labels alone, or labels and a teacher. Every head has its loss, and they add up."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.graph.trace import example
from mmedge.models.fusion import repeated
from mmedge.recipe import Hint, Loss, Schedule, Train
from mmedge.training import losses
from mmedge.training.loop.batches import Batch
from mmedge.training.losses import hints
from mmedge.training.teaching.layers import HintedLayer, check_pair
from mmedge.training.teaching.teachers import BatchOutputs, Teacher, TeacherBatch

_SHARED = 128


class Weighing(nn.Module):
    """The sum of the heads' losses, by given weights or by what each one's uncertainty makes of them.

    ``uncertainty``: Kendall, Gal & Cipolla 2018, "Multi-task learning using uncertainty to weigh losses": a learned
    log variance s a head makes its loss exp(-s) * loss + s / 2 (their equation 10, with the factor of a regression in
    the weight).
    """

    def __init__(self, contract: Contract, train: Train) -> None:
        super().__init__()
        weights = train.head_weights
        learned = weights == "uncertainty" and len(contract.heads) > 1
        self._weights = {name: weights.get(name, 1.0) if isinstance(weights, dict) else 1.0 for name in contract.heads}
        self.log_variances = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(())) for name in contract.heads} if learned else {}
        )

    def forward(self, each: Mapping[str, Tensor]) -> Tensor:
        """``each``: {head: its loss, a scalar}."""
        total = torch.zeros((), device=next(iter(each.values())).device)
        for name, loss in each.items():
            if name in self.log_variances:
                s = self.log_variances[name]
                total = total + self._weights[name] * (torch.exp(-s) * loss + s / 2)
            else:
                total = total + self._weights[name] * loss
        return total


class Supervised(nn.Module):
    """The label losses of all heads over a batch."""

    def __init__(self, contract: Contract, train: Train) -> None:
        super().__init__()
        self._contract, self._train = contract, train
        self.weighing = Weighing(contract, train)

    def forward(self, module: nn.Module, batch: Batch) -> Tensor:
        outputs = module(present=batch.present, **batch.inputs, **forced(batch.targets, self._contract))
        return self.weighing(_label_losses(outputs, batch, self._contract, self._train))


class Distillation(nn.Module):
    """Labels where there are any, the teacher's logits of every head, and its hints, each through what its kind needs.

    The teacher gets the full input whatever the student sees or takes: the full teacher teaches the subsets.
    Projections are parameters of the objective; they are trained along and left behind.
    """

    def __init__(self, student: nn.Module, teacher: Teacher, contract: Contract, loss: Loss, train: Train) -> None:
        super().__init__()
        self._teacher, self._contract, self._loss, self._train = teacher, contract, loss, train
        self.weighing = Weighing(contract, train)
        self._layers = [HintedLayer(student, hint.student, hint.kind, "student") for hint in loss.hints]
        if self._layers:
            with torch.no_grad():
                student.eval()(**example(contract, 1))
        widths = zip(self._layers, teacher.widths, loss.hints)
        self.project = nn.ModuleList(_Projection(hint, layer.take(1).shape[1], width) for layer, width, hint in widths)

    def forward(self, student: nn.Module, batch: Batch) -> Tensor:
        outputs = student(present=batch.present, **batch.inputs, **forced(batch.targets, self._contract))
        loss = self._loss
        needed = loss.logits or loss.hints  # labels alone need nobody's outputs
        teacher = self._teacher.outputs(batch, batch.present.device) if needed else TeacherBatch({}, [])
        each = _label_losses(outputs, batch, self._contract, self._train)
        each = {name: loss.labels * value for name, value in each.items()}
        if loss.logits:
            factor = loss.logits * scheduled(loss.schedule, batch.passed)
            # In the heads' order: a set's is another one in each process, and sums would differ in the last bit.
            for name in [head for head in each if head in teacher.heads]:
                targets = repeated(batch.targets[name], batch.repeats)
                if batch.partners and not targets.is_floating_point():
                    targets = torch.full_like(targets, -1)  # a mix has no class of its own
                each[name] = each[name] + factor * self._of_logits(
                    name, outputs[name], teacher.heads[name].repeated(batch.repeats), targets
                )
        total = self.weighing(each)
        for hint, layer, project, teacher_hint in zip(loss.hints, self._layers, self.project, teacher.hints):
            weight = hint.weight * scheduled(hint.schedule or loss.schedule, batch.passed)
            student_hint = layer.take(len(batch.index) * batch.repeats, len(batch.index))
            # The outputs for one sample are no samples of their own: contrasts and relations are within one of its k.
            count = len(student_hint) // len(teacher_hint)
            total = (
                total
                + weight
                * sum(_hint_loss(hint, *project(student_hint[k::count], teacher_hint)) for k in range(count))
                / count
            )
        return total

    def _of_logits(self, name: str, output: Tensor, teacher: BatchOutputs, targets: Tensor) -> Tensor:
        """The teacher's loss over the samples and the columns that it knows, divided by the whole batch."""
        head, rows = self._contract.heads[name], teacher.rows
        of_task = losses.of(head)
        if teacher.columns is not None:
            output = output.index_select(1, teacher.columns)
            targets, may = of_task.known_to(teacher.columns, targets, head)
            rows = rows if may is None else may if rows is None else rows & may
        logits, share = teacher.logits, 1.0
        if rows is not None:
            if not rows.any():
                return output.sum() * 0
            output, logits, targets, share = output[rows], logits[rows], targets[rows], float(rows.float().mean())
        return share * of_task.teacher_loss(output, logits, targets, head, self._loss)


def forced(targets: Mapping[str, Tensor], contract: Contract) -> dict[str, Tensor]:
    """{head: the texts that its outputs are taken behind}, of heads that write; what a network gets beside its inputs to learn."""
    return {name: targets[name] for name in contract.written}


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


def _label_losses(outputs: Mapping[str, Tensor], batch: Batch, contract: Contract, train: Train) -> dict[str, Tensor]:
    """{head: its label loss}, of a batch whose samples may each have several outputs."""
    found = {}
    for name, head in contract.heads.items():
        targets = repeated(batch.targets[name], batch.repeats)
        weights = repeated(batch.weights[name], batch.repeats) if name in batch.weights else None
        found[name] = losses.of(head).label_loss(outputs[name], targets, head, train, weights)
        if name in batch.partners:  # whom each sample is mixed with counts for its part
            others, parts = (repeated(x[name], batch.repeats) for x in (batch.partners, batch.partner_weights))
            found[name] = found[name] + losses.of(head).label_loss(outputs[name], others, head, train, parts)
    return found


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
            return hints.features(student, teacher)
        case "attention":
            return hints.attention(student, teacher)
        case "relations":
            return hints.relations(student, teacher)
        case "contrastive":
            return hints.contrastive(student, teacher)
