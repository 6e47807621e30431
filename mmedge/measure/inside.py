"""What is seen inside a network on given samples: evidence in their inputs, attention, features before and after fusion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.errors import MissingDependency
from mmedge.measure.attending import attention_maps, map_picture
from mmedge.measure.embedding import FUSION, LEAST, alike, features, laid_out
from mmedge.measure.intervals import of_figure
from mmedge.measure.places import Places, layers_of, places_of
from mmedge.measure.quality import Outputs
from mmedge.measure.review import given_words, named, short
from mmedge.measure.saliency import Question, grad_cam, integrated_gradients, overlay
from mmedge.report.charts.embedding import UNKNOWN
from mmedge.report.explained import AttentionRecord, EmbeddingRecord, InsideRecord, SaliencyRecord

# Of the layout of features; attention layers that are drawn.
_SEED, _LAYERS = 0, 6


@dataclass(frozen=True)
class Seen:
    """A network with its samples, and what it gives for them. ``row_of(sample's number)``: its row in the table that it is from,
    and its id, where that may be told."""

    module: nn.Module
    contract: Contract
    samples: Samples
    outputs: Outputs
    row_of: Callable[[int], tuple[int, str | None]]

    @property
    def head(self) -> str:
        """What is explained: the first."""
        return next(iter(self.contract.heads))

    def label(self, row: int) -> str | None:
        """What is right, where that is known; None of a task whose targets have no words."""
        head = self.contract.heads[self.head]
        known = self.samples.known(self.head) & tasks.row_by_row(head)
        return named(head, self.samples.targets[self.head][row]) if known[row] else None


def inside(seen: Seen, pictures: int) -> InsideRecord:
    """Evidence and attention of so many samples, from all over, and the features of all. ``notes`` say what cannot be seen."""
    notes: list[str] = []
    if len(seen.contract.heads) > 1:
        notes.append(f"evidence and features are of the first head, {seen.head}")
    if values := seen.contract.heads[seen.head].values:
        notes.append(f"evidence is of the first value, {values[0]}")
    open_ = layers_of(seen.module)
    closed = next((name for name, _ in seen.module.named_modules() if name and name not in open_), None)
    if closed:
        notes.append(f"nothing is seen inside {closed.removeprefix('inner.')}: it is compiled with torch.jit")
    places = places_of(seen.module, seen.contract, seen.head)
    rows = spread(len(seen.samples), pictures)
    return InsideRecord(
        saliency=_saliency(seen, places, rows, notes),
        attention=_attention(seen, rows, notes),
        embeddings=_embeddings(seen, places, notes),
        notes=notes,
    )


def spread(count: int, most: int) -> list[int]:
    """At most so many rows, from all over."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist() if most and count else []


def _saliency(seen: Seen, places: Places, rows: list[int], notes: list[str]) -> list[SaliencyRecord]:
    if rows and seen.contract.heads[seen.head].shape:
        notes.append("no evidence: an array is no one number that inputs could speak for")
        return []
    whole = [name for name, x in seen.samples.inputs.items() if not np.issubdtype(x.dtype, np.floating)]
    if rows and whole:
        notes.append(f"no evidence in {', '.join(whole)}, and no share of it: between two tokens there is nothing")
    if len(whole) == len(seen.samples.inputs):
        return []
    try:
        found = [_of_row(seen, places, row) for row in rows]
    except MissingDependency as error:
        notes.append(f"{error.what}: {error.todo}")
        return []
    except RuntimeError as error:  # what torch says of a network that cannot be differentiated
        notes.append(f"no evidence: the network has no gradient: {str(error).splitlines()[0]}")
        return []
    without = [name for name in seen.contract.modalities if rows and name not in places.maps and _drawable(seen, name)]
    if without:
        notes.append(
            f"no Grad-CAM of {', '.join(without)}: no layer of the network gives a convolutional map of that alone"
        )
    return found


def _of_row(seen: Seen, places: Places, row: int) -> SaliencyRecord:
    contract, samples, head = seen.contract, seen.samples, seen.contract.heads[seen.head]
    inputs = {name: np.array(x[row : row + 1]) for name, x in samples.inputs.items()}
    output = seen.outputs[seen.head][row]
    column = int(output.argmax()) if tasks.of(head).LABELS else 0
    question = Question(contract, inputs, samples.present[row : row + 1], seen.head, column)
    evidence, gap = integrated_gradients(seen.module, question)
    there = {name for name, present in zip(samples.inputs, samples.present[row]) if present}
    cams = {
        name: np.broadcast_to(grad_cam(seen.module, question, place.layer, _size(inputs[name])), inputs[name].shape)
        for name, place in places.maps.items()
        if name in there and _drawable(seen, name)
    }
    sums = {name: float(np.abs(x).sum()) for name, x in evidence.items() if name in there}
    total, (number, sample), target = sum(sums.values()) or 1.0, seen.row_of(row), seen.label(row)
    return SaliencyRecord(
        row=number,
        head=seen.head,
        given=given_words(head, output),
        pictures=dict(_overlays(contract, inputs, {name: x for name, x in evidence.items() if name in there})),
        shares={name: value / total for name, value in sums.items()},
        gap=gap,
        **({"id": sample} if sample else {}),
        **({"target": target} if target else {}),
        **({"grad_cam": dict(_overlays(contract, inputs, cams))} if cams else {}),
    )


def _overlays(
    contract: Contract, inputs: dict[str, np.ndarray], evidence: dict[str, np.ndarray]
) -> Iterator[tuple[str, str]]:
    for name, x in evidence.items():
        uri = overlay(contract.modalities[name], inputs[name][0], x[0])
        if uri:
            yield name, uri


def _size(tensor: np.ndarray) -> tuple[int, int]:
    """Of the picture that an input [1, ..., height, width] is."""
    return tensor.shape[-2], tensor.shape[-1]


def _drawable(seen: Seen, name: str) -> bool:
    x = seen.samples.inputs[name]
    return overlay(seen.contract.modalities[name], np.array(x[0]), np.array(x[0])) is not None


def _attention(seen: Seen, rows: list[int], notes: list[str]) -> list[AttentionRecord]:
    if not rows:
        return []
    chosen = seen.samples.taken(np.array(rows))
    maps = attention_maps(seen.module, {name: np.array(x) for name, x in chosen.inputs.items()}, chosen.present)
    layers = list(maps)
    if len(layers) > _LAYERS:
        notes.append(f"attention of {_LAYERS} of {len(layers)} layers, from all over the network")
    return [
        AttentionRecord(
            row=seen.row_of(row)[0],
            layer=layer.removeprefix("inner."),
            queries=maps[layer].shape[1],
            keys=maps[layer].shape[2],
            picture=map_picture(maps[layer][number]),
        )
        for number, row in enumerate(rows)
        for layer in (layers[at] for at in spread(len(layers), _LAYERS))
    ]


def _embeddings(seen: Seen, places: Places, notes: list[str]) -> list[EmbeddingRecord]:
    samples, names = seen.samples, list(seen.samples.inputs)
    without = [name for name in names if name not in places.encoders]
    if without:
        notes.append(f"no features of {', '.join(without)} before fusion: no layer's output depends on that alone")
    if len(names) > 1 and not places.fusion:
        notes.append("no features after fusion: no layer is given what several modalities have made")
    found = []
    for place, rows in features(seen.module, places, samples).items():
        there = np.ones(len(rows), bool) if place == FUSION else samples.present[:, names.index(place)]
        at = np.flatnonzero(there)
        if len(at) < LEAST:
            notes.append(f"no features of {place}: {len(at)} samples have it; {LEAST} have neighbours to speak of")
        else:
            found.append(_laid_out(seen, place, rows[at], at))
    return found


def _laid_out(seen: Seen, place: str, rows: np.ndarray, at: np.ndarray) -> EmbeddingRecord:
    points, labels = laid_out(rows, _SEED), [seen.label(int(row)) or UNKNOWN for row in at]
    record = EmbeddingRecord(place=place, x=short(points[:, 0]), y=short(points[:, 1]), labels=labels)
    if not tasks.of(seen.contract.heads[seen.head]).LABELS:
        return record
    shares = alike(rows, np.array(labels))
    bounds = of_figure(lambda drawn: float(shares[drawn].mean()), seen.samples.groups[at])
    return record.model_copy(update={"alike": float(shares.mean()), "alike_ci95": (bounds.low, bounds.high)})
