"""What distillation and recovery after pruning share: the student's view of the labels, and the teacher that answers."""

from __future__ import annotations

from mmedge.data.samples import Samples
from mmedge.errors import UsageError
from mmedge.models.load import contract_of
from mmedge.recipe import Distill, Train
from mmedge.spec import Contract
from mmedge.training.context import Context
from mmedge.training.teachers import GraphSource, ModuleSource, Teacher


def taught_samples(config: Distill, context: Context, contract: Contract) -> Samples:
    """The training split as the student may see it: its own modalities, and only ``distill.labels`` of the labels."""
    train = context.dataset.train.only(tuple(contract.modalities))
    if config.labels == "all":
        return train
    return train.with_labels(0 if config.labels == "none" else config.labels, context.recipe.seed)


def teacher_for(config: Distill, context: Context, train: Train) -> Teacher:
    """The run's teacher, answering for the training split under ``train``'s augmentation."""
    artifact = context.teacher
    if artifact is None:
        raise UsageError("there is no teacher to learn from", todo="run mmedge train first, or name one with --from")
    contract = contract_of(artifact)
    if contract.labels != context.dataset.contract.labels:
        raise UsageError(
            f"the teacher's classes {list(contract.labels)} are not the data's {list(context.dataset.contract.labels)}",
            where=str(artifact.path),
        )
    absent = [name for name in contract.modalities if name not in context.dataset.contract.modalities]
    if absent:
        raise UsageError(
            f"the teacher takes {', '.join(absent)}, which the data does not have", where=str(artifact.path)
        )
    hints = config.loss.hints
    source = (
        ModuleSource(context.rebuild(artifact), contract, hints)
        if "model" in artifact.meta
        else GraphSource(artifact.file("model.onnx"), contract, hints)
    )
    return Teacher(
        source,
        context.dataset.train.only(tuple(contract.modalities)),
        train,
        key=f"{artifact.sha256} {context.dataset.sha256}",
        view_seed=context.recipe.seed,
        hints=hints,
        folder=context.work.parent / "teacher-outputs",
        progress=context.progress,
    )
