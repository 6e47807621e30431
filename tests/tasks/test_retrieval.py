"""Retrieval: places worked out by hand, several right items, absent towers, a gallery that nothing shrinks, what is refused."""

import numpy as np
import pytest

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.errors import MmedgeError
from mmedge.measure.quality import graph_predictor, quality, subset_scores
from mmedge.spec import ArraySpec
from mmedge.tasks import retrieval
from mmedge.tasks.head import Head, Target

HEAD = Head(task="retrieval", towers={"image": ("image",), "text": ("text",)}, dimensions=2)
TARGET = Target(task="retrieval", towers=HEAD.towers)


def on_circle(degrees):
    radians = np.deg2rad(np.asarray(degrees, float))
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1)


def outputs(images, texts):
    """[N, 4] of two angles a row; the lengths differ and say nothing."""
    return np.concatenate([on_circle(images) * 3, on_circle(texts) * 0.5], axis=1).astype(np.float32)


def targets(*things):
    return retrieval.targets([str(thing) for thing in things], HEAD, TARGET)


def test_places_and_figures_are_those_worked_out_by_hand():
    output = outputs([0, 90, 180], [10, 165, 100])
    placed = retrieval.placed(output, output, targets("a", "b", "c"), HEAD)
    # 0° is nearest to 10°, its own; 90° to 100° and then to its own; 180° to 165° and then to its own; and so back.
    assert placed[:, 0].tolist() == [1, 2, 2] and placed[:, 2].tolist() == [1, 2, 2]
    places = placed[:, ::2]
    figures = retrieval.others(placed, targets("a", "b", "c"), HEAD)
    assert figures["recall_at_1"] == pytest.approx((places == 1).mean())
    assert figures["recall_at_5"] == figures["recall_at_10"] == 1
    assert figures["mrr"] == figures["map"] == pytest.approx((1 / places).mean())
    assert figures["recall_at_1.image_to_text"] == pytest.approx((places[:, 0] == 1).mean())
    assert retrieval.score(placed, None, HEAD) == pytest.approx((figures["recall_at_1"] + 2) / 3)


def test_of_several_right_items_the_first_counts_and_average_precision_all():
    output = outputs([0, 5, 90, 180], [60, 10, 20, 30])
    placed = retrieval.placed(output, output, targets("a", "b", "a", "c"), HEAD)
    # To 0° the texts come in the order 10° (b), 20° (a), 30° (c), 60° (a): right at 2 and 4.
    assert placed[0, :2].tolist() == pytest.approx([2, (1 / 2 + 2 / 4) / 2])
    assert placed[1, :2].tolist() == [1, 1]


def test_vectors_that_are_all_the_same_find_nothing_and_nan_is_no_figure():
    alike = outputs([7] * 20, [7] * 20)
    assert retrieval.score(retrieval.placed(alike, alike, targets(*range(20)), HEAD), None, HEAD) == 0
    alike[3, 0] = np.nan
    assert np.isnan(retrieval.placed(alike, alike, targets(*range(20)), HEAD)[3]).all()


def test_an_absent_tower_neither_asks_nor_is_found():
    output = outputs([0, 90], [10, 100])
    output[1, 2:] = 0
    placed = retrieval.placed(output, output, targets("a", "b"), HEAD)
    assert placed[:, 0].tolist() == [1, 0] and placed[:, 2].tolist() == [1, 0]  # of 90° nothing is right
    assert retrieval.others(placed, None, HEAD)["recall_at_1"] == 1
    first, second = retrieval.predictions(output, HEAD)
    assert set(first.embeddings) == {"image", "text"} and set(second.embeddings) == {"image"}
    assert np.linalg.norm(first.embeddings["text"]) == pytest.approx(1)


def test_chance_finds_what_luck_gives_and_a_long_list_is_compared_in_parts(monkeypatch):
    things = targets(*range(400))
    output = retrieval.majority(things, HEAD, 400)
    placed = retrieval.placed(output, output, things, HEAD)
    assert retrieval.others(placed, things, HEAD)["recall_at_10"] == pytest.approx(10 / 400, abs=0.02)
    monkeypatch.setattr(retrieval, "_MOST", 1000)
    assert (retrieval.placed(output, output, things, HEAD) == placed).all()


def test_kin_and_hidden_pairs():
    given = retrieval.grouped(retrieval.targets(["a", None, "a"], HEAD, TARGET), np.array([4, 4, 9]))
    assert given[:, 0].tolist() == [0, 1, 0] and given[:, 1].tolist() == [4, 4, 9]
    hidden = retrieval.hidden(given, np.array([1]))
    assert retrieval.known(hidden).tolist() == [True, False, True] and retrieval.known(given).all()


def samples_of(angles):
    inputs = {name: np.asarray(x, np.float32)[:, None] for name, x in angles.items()}
    count = len(inputs["image"])
    given = retrieval.targets([str(row) for row in range(count)], HEAD, TARGET)
    ids = tuple(map(str, range(count)))
    return Samples(
        "test", ids, inputs, np.ones((count, 2), bool), {"embeddings": given}, np.arange(count), {"embeddings": HEAD}
    )


def test_a_subset_asks_among_all_items_and_an_interval_does_not_shrink_the_gallery():
    random = np.random.default_rng(0)
    angles = np.linspace(0, 359, 60)
    samples = samples_of({"image": angles, "text": angles + random.normal(0, 8, 60)})
    spec = ArraySpec(kind="array", shape=(1,))
    contract = Contract(modalities={"image": spec, "text": spec}, heads={"embeddings": HEAD})
    galleries = []

    def run(inputs):
        there = inputs["present"].astype(np.float32)
        galleries.append(len(there))
        parts = [on_circle(inputs[name][:, 0]) * there[:, k : k + 1] for k, name in enumerate(("image", "text"))]
        return {"embeddings": np.concatenate(parts, axis=1).astype(np.float32)}

    predict = graph_predictor(run, contract, samples)
    record = quality(contract, predict(samples.present), samples)
    subsets = subset_scores(contract, samples, predict)
    assert record.metric == "mean_recall" and record.n == 60 and record.ci95[0] < record.value < record.ci95[1]
    ways = [[record.others[f"recall_at_{k}.{way}"] for k in (1, 5, 10)] for way in ("image_to_text", "text_to_image")]
    assert subsets == pytest.approx({"image": np.mean(ways[0]), "text": np.mean(ways[1]), "image+text": record.value})
    assert len(galleries) == 3  # each set of modalities once, however often the rows are drawn again

    samples.inputs["image"][5] = np.nan
    with pytest.raises(MmedgeError, match="NaN.*"):
        quality(contract, graph_predictor(run, contract, samples)(samples.present), samples)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ({"train": ["x"] * 30, "test": [str(n) for n in range(30)]}, "one-thing"),
        ({"train": [str(n) for n in range(30)], "test": [str(n) for n in range(10)]}, "few-pairs"),
    ],
)
def test_pairs_that_are_all_one_thing_and_splits_smaller_than_the_places_are_told(cells, kind):
    assert [found.kind for found in retrieval.faults(cells, TARGET)] == [kind]


def test_outputs_mean_the_same_where_they_point_the_same_way():
    first = outputs([0, 90], [10, 100])
    assert retrieval.same(first, first * 2) == 1 and retrieval.same(first, outputs([0, 200], [10, 100])) == 0.5
    assert tasks.TASKS["retrieval"].width(HEAD) == 4
