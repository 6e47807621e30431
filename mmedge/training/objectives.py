"""What the training loop minimises: labels alone, or labels and a teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.graph.trace import example
from mmedge.recipe import Loss, Train
from mmedge.spec import Contract
from mmedge.training.batches import Batch
from mmedge.training.losses import feature_loss, label_loss, logit_loss
from mmedge.training.teachers import Hint, Teacher


def supervised(contract: Contract, train: Train):
    """Loss over the labelled samples of a batch."""

    def objective(module: nn.Module, batch: Batch) -> Tensor:
        return label_loss(
            module(present=batch.present, **batch.inputs)[contract.output],
            batch.targets,
            train.label_smoothing,
            batch.weights,
            train.focal_gamma,
        )

    return objective


class Distillation(nn.Module):
    """Labels where there are any, the teacher's logits, and its hint through a learned projection.

    The teacher answers for the full input whatever the student is shown or takes: the full teacher teaches the subsets.
    """

    def __init__(self, student: nn.Module, teacher: Teacher, contract: Contract, loss: Loss, train: Train) -> None:
        super().__init__()
        self._teacher, self._contract, self._loss, self._train = teacher, contract, loss, train
        self._hint = Hint(student, loss.hint.student, "student") if loss.features else None
        if self._hint:
            with torch.no_grad():
                student(**example(contract))
            self.project = nn.Linear(self._hint.take().shape[1], teacher.features)

    def forward(self, student: nn.Module, batch: Batch) -> Tensor:
        output = student(present=batch.present, **batch.inputs)[self._contract.output]
        logits, features = self._teacher.outputs(batch, output.device)
        total = self._loss.labels * label_loss(
            output, batch.targets, self._train.label_smoothing, batch.weights, self._train.focal_gamma
        )
        if self._loss.logits:
            total = total + self._loss.logits * logit_loss(output, logits, self._loss.temperature, self._contract.task)
        if self._hint and features is not None:
            total = total + self._loss.features * feature_loss(self.project(self._hint.take()), features)
        return total
