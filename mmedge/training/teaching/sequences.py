"""Sequence-level distillation: the student learns the texts that the teacher itself writes.

Kim & Rush 2016, "Sequence-level knowledge distillation", section 3.2: the mode of the teacher's distribution over texts,
which its beam search finds, stands for that distribution.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from mmedge.artifact import GRAPH, Artifact, hash_json, replacing
from mmedge.backends import onnxruntime_cpu, writing
from mmedge.backends.session import Session
from mmedge.data.store.samples import Samples
from mmedge.graph.export import export
from mmedge.measure.quality import predict_graph
from mmedge.models.load import contract_of
from mmedge.recipe import Loss
from mmedge.tasks import of
from mmedge.training.context import Context
from mmedge.training.loop import processes


def with_sequences(samples: Samples, loss: Loss, context: Context) -> Samples:
    """The training split whose texts are the teacher's, as far as ``loss.sequences`` says; as it is where there is no teacher."""
    if loss.sequences == "none" or context.teacher is None:
        return samples
    found = dict(samples.targets)
    for head in contract_of(context.teacher).written:
        texts = _written(context.teacher, head, loss.beams, context)
        theirs = (
            ~of(samples.heads[head]).known(found[head]) if loss.sequences == "unlabelled" else np.ones(len(texts), bool)
        )
        found[head] = np.where(theirs[:, None], texts, found[head])
    return replace(samples, targets=found)


def _written(teacher: Artifact, head: str, beams: int, context: Context) -> np.ndarray:
    """int64 [N, steps]: what the teacher writes of each training sample with all that it has, by beam search; computed once."""
    folder = context.work.parent / "teacher-outputs"
    path = folder / f"{hash_json([teacher.sha256, context.dataset.sha256, head, beams])[:16]}-texts.npy"
    with processes.main_first():
        if not path.is_file():
            contract = contract_of(teacher)
            samples = context.dataset.preprocessed(contract.modalities, context.progress).train
            context.progress.say(f"the teacher writes {len(samples)} texts, with {beams} beams")
            outputs = predict_graph(_session(teacher, beams, context), contract, samples, samples.present)
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                np.save(temporary, outputs[head][:, 1:].astype(np.int64))
    return np.asarray(np.load(path))


def _session(teacher: Artifact, beams: int, context: Context) -> Session:
    """The teacher's graph, which is exported here where its stage did not."""
    graph = teacher.file(GRAPH)
    if not graph.is_file():
        graph = context.work / "teacher.onnx"
        graph.parent.mkdir(parents=True, exist_ok=True)
        export(context.rebuild(teacher), contract_of(teacher), graph)
    how = writing.described(graph)
    assert how is not None, "a teacher of texts writes"
    open_ = partial(onnxruntime_cpu.session, threads=torch.get_num_threads())
    return writing.opened(graph, how.model_copy(update={"beams": beams}), open_)
