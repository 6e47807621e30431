"""What distillation and recovery after pruning share: the student's view of the labels, and the teacher that answers."""

from __future__ import annotations

from mmedge.data.samples import Samples
from mmedge.errors import UsageError
from mmedge.models.load import contract_of
from mmedge.recipe import Distill, Train
from mmedge.spec import Contract
from mmedge.training.caching import Asked
from mmedge.training.context import Context
from mmedge.training.sources import GraphSource, ModuleSource, Shown, Source
from mmedge.training.teachers import Teacher


def taught_samples(config: Distill, context: Context, contract: Contract) -> Samples:
    """The training split as the student may see it: its own modalities, and only ``distill.labels`` of the labels."""
    train = context.dataset.train.only(tuple(contract.modalities))
    if config.labels == "all":
        return train
    return train.with_labels(0 if config.labels == "none" else config.labels, context.recipe.seed)


def teacher_for(config: Distill, context: Context, train: Train, fits: int = 1) -> Teacher:
    """The run's teacher, answering for the training split under ``train``'s augmentation, in ``fits`` trainings."""
    artifact = context.teacher
    if artifact is None:
        raise UsageError("there is no teacher to learn from", todo="run mmedge train first, or name one with --from")
    contract = contract_of(artifact)
    if contract.labels != context.dataset.contract.labels:
        raise UsageError(
            f"the teacher's classes {list(contract.labels)} are not the data's {list(context.dataset.contract.labels)}",
            where=str(artifact.path),
        )
    hints = config.loss.hints
    dataset = context.dataset.preprocessed(contract.modalities, context.progress)
    shown = Shown(dataset.train, train.augment, context.recipe.seed)
    key = f"{artifact.sha256} {context.dataset.sha256}"
    source: Source
    if "model" in artifact.meta:
        source = ModuleSource(context.rebuild(artifact), contract, shown, hints, key=key, who="the teacher")
    else:
        source = GraphSource(artifact.file("model.onnx"), contract, shown, hints, key=key, who="the teacher")
    return Teacher(
        source,
        len(dataset.train),
        train.views,
        asked=Asked.by(train, fits, config.cache),
        hints=hints,
        folder=context.work.parent / "teacher-outputs",
        progress=context.progress,
    )
