"""Builds a model from its recipe section and rebuilds any model from its artifact: constructor, pruning history, weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmedge import tasks
from mmedge.artifact import WEIGHTS, Artifact, contract_of
from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError, did_you_mean, first_line
from mmedge.graph.trace import example, generated, outputs_of
from mmedge.models.arrays import ArrayDecoder, Flat
from mmedge.models.attention import split_attention
from mmedge.models.blocks import keep_blocks
from mmedge.models.dependencies import dependencies
from mmedge.models.encoders import encoder_of
from mmedge.models.ensemble import ensemble
from mmedge.models.factored import factor
from mmedge.models.fusion import EarlyNet, FusionNet, TokenNet
from mmedge.models.fusions import FUSIONS
from mmedge.models.fusions.early import Early, stacked
from mmedge.models.generator import Generator
from mmedge.models.heads import Rescale, Wrapped
from mmedge.models.skipped import skip
from mmedge.models.state import load_weights as load_weights
from mmedge.models.state import unshared
from mmedge.models.towers import TowerNet, Vectors, columns_of
from mmedge.preprocess import stand_in
from mmedge.recipe import AnyEncoder, Encoder, Model, Pretrained
from mmedge.spec import ModalitySpec, TextSpec
from mmedge.tasks import Head

HISTORY = "pruning.json"
# Of a built-in network: beyond it check alone, which exports a copy, takes gigabytes.
_MOST_PARAMETERS = 50_000_000
SPLIT = "split attention"
COUNT = "count of heads"
SKIP = "block that is gone"
FACTORED = "layer in two factors"
_IMAGINED = "it has no features of a modality to imagine (hallucinate)"


def build(
    model: Model,
    contract: Contract,
    *,
    factory: Any = None,
    means: Mapping[str, np.ndarray] | None = None,
    fresh: bool = False,
) -> nn.Module:
    """The network of a recipe's ``model`` section, with fresh weights unless ``model.weights`` names some.

    ``fresh``: even then, for weights that are loaded later. For regression every output is in the target's own unit: a network of fresh
    weights learns in standard units and is rescaled; weights of the user's own have learned the unit already.

    ``factory`` is what ``model.factory`` names, already imported; ``means`` are the training means [*shape] that stand
    in for absent inputs of a module that knows no presence.
    """
    if model.ensemble > 1:
        one = model.model_copy(update={"ensemble": 1})
        return ensemble(
            model.ensemble, partial(build, one, contract, factory=factory, means=means, fresh=fresh), contract
        )
    module: Any
    if model.factory is None:
        if model.outputs:
            raise UsageError(
                f"model.outputs names {', '.join(model.outputs)}, and the built-in network has its heads alone",
                todo="leave it out, or name a network of your own: model.factory",
            )
        with torch.device("meta"):  # nothing is allocated, and no random number drawn
            _refuse_huge(_built_in(model, contract, _but_pretrained))
        module = _built_in(model, contract, partial(encoder_of, fresh=fresh or model.weights is not None))
    else:
        inner = factory(**model.args)
        if not isinstance(inner, nn.Module):
            raise UsageError(f"the factory returned {type(inner).__name__}, not a torch.nn.Module", where=model.factory)
        stand_ins = {
            name: torch.from_numpy(np.array(stand_in(spec, means[name] if means else None)))
            for name, spec in contract.modalities.items()
        }
        names = {name: model.parameters.get(name, name) for name in contract.modalities}
        units = {name: _unit(head, contract, fresh=model.weights is None) for name, head in contract.heads.items()}
        module = Wrapped(inner, names, stand_ins, units, model.outputs, _masks(model, contract))
    if model.weights is not None and not fresh:
        load_weights(module.inner if isinstance(module, Wrapped) else module, model.weights)
    keep_blocks(module, model.layers)
    return module


def _masks(model: Model, contract: Contract) -> dict[str, tuple[str, int]]:
    """{modality: (the parameter of its attention mask, the id of padding)}. Raises UsageError of what has no padding."""
    found = {}
    for name, parameter in model.masks.items():
        spec = contract.modalities.get(name)
        if spec is not None and spec.dtype != "int64":
            raise UsageError("a mask follows from padding, which texts and ids have", where=f"model.inputs.{name}")
        if spec is not None:
            found[name] = parameter, getattr(spec, "pad", 0)
    return found


def _built_in(model: Model, contract: Contract, encoder: Callable[..., nn.Module] = encoder_of) -> nn.Module:
    """``encoder``: what makes each modality's, of its name, its spec, and two sections."""
    fusion = _fusion(model, [*contract.modalities, *model.hallucinate])
    if fusion is Early:
        return _early(model, contract, encoder)
    encoders = {
        name: encoder(name, spec, model.encoders.get(name, Encoder()), model)
        for name, spec in contract.modalities.items()
    }
    for name, head in contract.heads.items():
        if head.towers:  # it is the only one
            return TowerNet(encoders, name, head, model)
    if getattr(fusion, "of_tokens", False):
        _refuse_without(model, {_IMAGINED: bool(model.hallucinate)})
        pads = {
            n: getattr(spec, "pad", 0) if spec.dtype == "int64" else None for n, spec in contract.modalities.items()
        }
        return TokenNet(encoders, pads, model.embedding, model.hidden, _heads(model, contract), fusion)
    return FusionNet(encoders, model.embedding, model.hidden, _heads(model, contract), model.hallucinate, fusion)


def _early(model: Model, contract: Contract, encoder: Callable[..., nn.Module]) -> nn.Module:
    """The network of early fusion, whose one encoder is that of the first modality. Raises UsageError for what it cannot have."""
    lacking = {
        "a retrieval has a tower a modality": any(head.towers for head in contract.heads.values()),
        _IMAGINED: bool(model.hallucinate),
        "a pretrained encoder takes its own modality alone": bool(model.pretrained),
    }
    _refuse_without(model, lacking)
    spec, first = stacked(contract.modalities), next(iter(contract.modalities))
    own = encoder(first, spec, model.encoders.get(first, Encoder()), model)
    shapes = {name: (each.shape[0], *[1] * (len(each.shape) - 1)) for name, each in contract.modalities.items()}
    return EarlyNet(own, shapes, model.embedding, model.hidden, _heads(model, contract), Early)


def _fusion(model: Model, names: Sequence[str]) -> Callable[..., nn.Module]:
    """What joins modalities, by the recipe's own weights where it gives them. Raises UsageError for such as it cannot take."""
    row, given = FUSIONS[model.fusion], model.fusion_weights
    if not given:
        return row
    where = "model.fusion_weights"
    if not getattr(row, "by_weights", False):
        able = ", ".join(kind for kind, each in FUSIONS.items() if getattr(each, "by_weights", False))
        raise UsageError(f"the fusion {model.fusion} takes no weights", where=where, todo=f"these do: {able}")
    for name in given:
        if name not in names:
            raise UsageError(f"there is no modality {name!r}{did_you_mean(name, names)}", where=where)
    if lacking := [name for name in names if name not in given]:
        raise UsageError(
            f"the modality {lacking[0]!r} has no weight", where=where, todo="give one to each, 0 to leave it out"
        )
    if not any(given.values()):
        raise UsageError("every weight is 0", where=where)
    return partial(row, given=[given[name] for name in names])


def _refuse_without(model: Model, lacking: Mapping[str, bool]) -> None:
    """Raise UsageError where a fusion lacks something. ``lacking``: {what: whether it is asked for}."""
    if whys := [why for why, there in lacking.items() if there]:
        raise UsageError(
            f"fusion: {model.fusion} cannot be had: {whys[0]}", where="model.fusion", todo="take another fusion"
        )


def _heads(model: Model, contract: Contract) -> dict[str, Callable[[], nn.Module]]:
    return {name: partial(_head, model, head, contract) for name, head in contract.heads.items()}


def _but_pretrained(name: str, spec: ModalitySpec, encoder: AnyEncoder, model: Model) -> nn.Module:
    """An encoder to be counted: one that has learnt elsewhere is as large as it is."""
    return nn.Identity() if isinstance(encoder, Pretrained) else encoder_of(name, spec, encoder, model)


def _refuse_huge(module: nn.Module) -> None:
    """Raise UsageError for a built-in network that a few digits too many have made: building it would fill the memory."""
    count = sum(parameter.numel() for parameter in module.parameters())
    if count > _MOST_PARAMETERS:
        raise UsageError(
            f"the built-in network would have {count / 1e6:,.0f} million parameters, more than {_MOST_PARAMETERS / 1e6:g} million",
            todo="lower widths, depth, embedding or hidden; a large network of your own is named by model.factory",
        )


def _unit(head: Head, contract: Contract, *, fresh: bool = True) -> Rescale | Vectors | Flat | None:
    """What comes after a network's output: a fresh one's standard units become the targets' own, towers give vectors."""
    if head.towers:
        return Vectors(columns_of(head, contract.modalities), head.dimensions, learned=fresh)
    if head.shape:
        return Flat(head, fresh=fresh)
    return Rescale(head.mean, head.std) if fresh and tasks.of(head).UNIT else None


def _head(model: Model, head: Head, contract: Contract) -> nn.Module:
    """A head of the built-in network."""
    if head.shape:
        return nn.Sequential(nn.Dropout(model.dropout), ArrayDecoder(model.hidden, head, model))
    if head.decoding:
        return Generator(model, head.decoding)
    unit = _unit(head, contract)
    layers = [nn.Dropout(model.dropout), nn.Linear(model.hidden, tasks.of(head).width(head))]
    return nn.Sequential(*layers, *([unit] if unit else []))


def check_forward(module: nn.Module, contract: Contract, where: str) -> None:
    """Run one example; raises UsageError where the model breaks the contract."""
    module.eval()
    for batch in (2, 1, 3):
        try:
            with torch.no_grad():
                result = module(**example(contract, batch))
        except UsageError:
            raise
        except Exception as error:
            shapes = {name: list(x.shape) for name, x in example(contract, batch).items()}
            raise UsageError(
                f"the model fails on a batch of {batch}: {first_line(error)}",
                where=where,
                todo=f"it is called with {shapes}",
            ) from error
        for head in contract.heads:
            shape, wanted = tuple(result[head].shape), (batch, contract.width(head))
            if shape != wanted:
                name = "output" if len(contract.heads) == 1 else f"output {head!r}"
                raise UsageError(
                    f"the model's {name} has shape {list(shape)} for a batch of {batch}; it must be {list(wanted)}",
                    where=where,
                )
    left = outputs_of(module, contract)[1]
    if isinstance(module, Wrapped) and (unfit := [name for name in module.outputs if name in left]):
        raise UsageError(
            f"the output {unfit[0]!r} cannot be in a graph: {left[unfit[0]]}",
            where=where,
            todo="leave it out of model.outputs",
        )
    check_lengths(module, contract, where)


def probabilities(outputs: Mapping[str, Tensor], contract: Contract) -> list[str]:
    """The heads whose rows [batch, classes] are each between 0 and 1 and add up to 1, as logits do not by chance."""
    return [
        name
        for name, head in contract.heads.items()
        if tasks.of(head).EXCLUSIVE
        and outputs[name].dim() == 2
        and outputs[name].shape[1] > 1
        and bool((outputs[name] >= 0).all())
        and torch.allclose(outputs[name].float().sum(1), torch.ones(len(outputs[name])), atol=1e-4)
    ]


def refuse_probabilities(module: nn.Module, contract: Contract, where: str) -> None:
    """Raise UsageError where a network that teaches as it is ends in a softmax: what teaches is taken for logits."""
    module.eval()
    with torch.no_grad():
        outputs = module(**generated(contract, 8))
    if probabilities(outputs, contract):
        raise UsageError(
            "the network's outputs are probabilities, and what teaches is taken for logits: little would be taught",
            where=where,
            todo="leave out its last softmax, or give its logarithms",
        )


def check_lengths(module: nn.Module, contract: Contract, where: str) -> None:
    """Raises UsageError where a text of a declared dynamic length gives other outputs than the padded one."""
    for name, spec in contract.modalities.items():
        if isinstance(spec, TextSpec) and spec.shortest is not None:
            _check_length(module, contract, name, spec, spec.shortest, where)


def _check_length(module: nn.Module, contract: Contract, name: str, spec: TextSpec, shortest: int, where: str) -> None:
    """Raise UsageError where a text of the least length gives no outputs, or others than padded to the whole one."""
    inputs = example(contract, 1)
    padded = torch.full_like(inputs[name], spec.pad)
    padded[:, :shortest] = spec.pad - 1 if spec.pad else 1  # any token that is no padding
    todo = f"take lengths from x.shape and look at no padding (token {spec.pad}), or leave out data.modalities.{name}.min_length"
    try:
        with torch.no_grad():
            long, short = (
                torch.cat([outputs[head] for head in contract.heads], dim=1)
                for outputs in (module(**inputs | {name: x}) for x in (padded, padded[:, :shortest]))
            )
    except Exception as error:
        raise UsageError(
            f"the model fails on a {name} of {shortest} tokens, its min_length: {first_line(error)}",
            where=where,
            todo=todo,
        ) from error
    difference = float((long - short).abs().max())
    if not difference <= 1e-4 * max(1.0, float(long.abs().max())):
        raise UsageError(
            f"the model's output for a {name} of {shortest} tokens changes by {difference:.2g} with the padding to {spec.length}, which min_length leaves away",
            where=where,
            todo=todo,
        )


def save(module: nn.Module, folder: Path, history: list[Any]) -> None:
    """Write weights and pruning history into an artifact's folder; weights that share memory are written once a name."""
    from safetensors.torch import save_file

    save_file(unshared(module.state_dict()), folder / WEIGHTS)
    if history:
        (folder / HISTORY).write_text(json.dumps(history))


def rebuild(artifact: Artifact, factory: Any = None, weights: str = WEIGHTS) -> nn.Module:
    """The model of a trained artifact, in evaluation mode: same outputs, bit for bit, as when it was saved."""
    if "model" not in artifact.meta:
        raise MmedgeError(
            f"the artifact of stage {artifact.stage!r} holds no trainable model",
            where=str(artifact.path),
            todo="use the artifact of teacher, distill or prune",
        )
    section, contract = section_of(artifact), contract_of(artifact)
    module = build(section, contract, factory=factory, fresh=True)
    apply_history(module, history_of(artifact), contract)
    load_weights(module, artifact.file(weights))
    return module.eval()


def section_of(artifact: Artifact) -> Model:
    """The section that an artifact's model was built by. Version 0.1, which wrote of no pooling, knew the mean alone."""
    return Model.model_validate({"text_pooling": "mean", **artifact.meta["model"]})


def history_of(artifact: Artifact) -> list[Any]:
    """The pruning steps that led to the artifact's shapes."""
    file = artifact.file(HISTORY)
    return json.loads(file.read_text()) if file.is_file() else []


def apply_history(module: nn.Module, history: list[Any], contract: Contract) -> None:
    """Prune a freshly built model to the shapes that the history led to.

    A step is torch-pruning's [layer, outputs or inputs, channels], or [``SPLIT``, name]: an attention was taken apart,
    or [``COUNT``, name, attribute, value]: what the module keeps as the number of its heads, or [``SKIP``, name, whether it
    gives a tuple]: a block hands on what goes in, or [``FACTORED``, name, rank]: a layer became two.
    """
    # In the order that it was made in: what goes with a channel depends on the blocks that are there.
    for what, group in groupby(history, key=lambda step: step[0] if step[0] in (SPLIT, SKIP, FACTORED) else None):
        steps = list(group)
        if what == SPLIT:
            split_attention(module, [step[1] for step in steps])
        elif what == SKIP:
            skip(module, {step[1]: step[2] for step in steps})
        elif what == FACTORED:
            factor(module, {step[1]: step[2] for step in steps})
        else:
            channels = [step for step in steps if step[0] != COUNT]
            if channels:
                dependencies(module, contract).load_pruning_history(channels)
            set_counts(module, [step for step in steps if step[0] == COUNT])


def set_counts(module: nn.Module, steps: Sequence[Any]) -> None:
    """Set what the steps [``COUNT``, name, attribute, value] say."""
    for _, name, attribute, value in steps:
        setattr(module.get_submodule(name), attribute, value)
