"""Quantization-aware training of a Q/DQ graph, taught as the student was: weights and scales learn what 8 bits cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mmedge.artifact import Artifact, replacing
from mmedge.errors import MmedgeError
from mmedge.graph.precision import to_symmetric, to_unsigned
from mmedge.graph.trainable import TrainableGraph
from mmedge.leftovers import scratch
from mmedge.models.load import contract_of
from mmedge.recipe import Train
from mmedge.training.context import Context
from mmedge.training.loop.batches import Training
from mmedge.training.loop.fit import Fitted, fit
from mmedge.training.objectives import Distillation
from mmedge.training.teaching.taught import taught_samples, teacher_for, teaching_of


def train_quantized(graph: Path, target: Path, parent: Artifact, train: Train, context: Context) -> Fitted:
    """Train the Q/DQ ``graph`` that was made of ``parent`` and write it to ``target``: the same nodes, better numbers.

    Trained is the symmetric form, which has the fewer codes; ``precision.to_symmetric`` makes it of ``target`` again
    for TensorRT. ``target`` itself has the codes that ``graph`` had, uint8 behind a ReLU: the same ranges in finer
    steps.

    Labels and the run's teacher teach it as in distillation; where there is none, or the student did better without,
    the FP32 parent does (Jacob et al. 2018 for the training, Mishra & Marr 2018, "Apprentice", for the teacher). Hints
    need layers, which a graph has not, and are left out. The best epoch by validation is kept. Raises MmedgeError where
    the graph cannot be trained.
    """
    contract = contract_of(parent)
    if contract.written:
        raise MmedgeError(
            "a graph that writes texts is not trained as a quantized one: it has no texts to be led through"
        )
    teaching, taught = teaching_of(parent, context)
    loss = teaching.loss.model_copy(update={"hints": (), "logits": teaching.loss.logits or 1.0})
    teaching = teaching.model_copy(update={"loss": loss})
    samples = taught_samples(teaching, context, contract)
    teacher = teacher_for(teaching, replace(context, teacher=context.teacher if taught else parent), train)
    with scratch() as folder:
        symmetric = folder / "symmetric.onnx"
        to_symmetric(graph, symmetric)
        module = TrainableGraph(symmetric)
    validation, seed = context.dataset.validation.only(tuple(contract.modalities)), context.recipe.seed
    fitted = fit(
        module,
        Distillation(module, teacher, contract, loss, train),
        Training(contract, samples, validation, train, np.arange(len(samples)), seed, seed),
        state=context.work / "qat.safetensors",
        task="quantization-aware training",
        progress=context.progress,
        log=context.log("qat"),
    )
    with replacing(target) as temporary:
        module.write(temporary)
        to_unsigned(temporary, graph, temporary)
    return fitted
