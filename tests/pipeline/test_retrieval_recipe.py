"""What a recipe of a retrieval asks in vain is told before anything is trained."""

import polars
import pytest

from mmedge.data.checks.splits import identical_rows
from mmedge.data.manifest.source import SPLIT
from mmedge.errors import UsageError
from mmedge.recipe import InvalidRecipe
from tests.conftest import parsed
from tests.pipeline.pairs import PIXELS, values_of


def refused(values, *changes):
    for path, value in changes:
        place = values
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    with pytest.raises((InvalidRecipe, UsageError)) as error:
        parsed(values)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(("data", "order"), ["a", "b"])], "'order' are labels, and a retrieval has none"),
        ([(("data", "towers"), {"a": ["pixels"], "b": ["names"]})], "there is no modality 'names'"),
        ([(("data", "towers"), {"a": ["pixels", "name"]})], "must be two or more"),
        ([(("data", "task"), "classification")], "'towers' are those of a retrieval"),
        ([(("gates", "prune"), {"worst_class_recall": 0.5})], "is no figure of a retrieval"),
        ([(("gates", "prune"), {"others.f1": 0.5})], "it has others.recall_at_1, others.recall_at_5"),
        ([(("gates", "prune"), {"above_baseline": 0})], "a linear model, which a retrieval has none of"),
        ([(("export", "per_subset"), False), (("export", "towers"), ["image"])], "there is no tower 'image'"),
        ([(("export", "per_subset"), False), (("export", "towers"), ["picture", "text"])], "names all"),
        ([(("export", "towers"), ["picture"])], "export.per_subset: cuts the whole engine"),
        ([(("export", "zero_shot"), {"labels": ["a", "a"]})], "names one twice"),
        ([(("export", "zero_shot"), {"labels": ["a", "b"], "template": "x"})], "no place for a label"),
        ([(("distill", "loss"), {"kind": "dkd"})], "compares classes that exclude each other"),
        ([(("distill", "controls"), {"subset_students": True})], "a tower alone has nothing to find"),
        ([(("distill", "model"), {"modalities": ["pixels"]})], "the tower 'text' would see nothing"),
    ],
)
def test_what_a_recipe_asks_in_vain_is_told(changes, words):
    assert words in refused(values_of("m.csv"), *changes)


def test_pairs_that_are_all_identical_are_told_by_their_split():
    data = parsed(values_of("m.csv")).data
    rows = [[*[1.0] * 64, "one", "train"]] * 5 + [[*[float(n)] * 64, "one", "test"] for n in range(5)]
    table = polars.DataFrame(rows, schema=[*PIXELS, "name", SPLIT], orient="row")
    assert [(f.severity, f.what) for f in identical_rows(table, data, "m.csv")] == [
        ("error", "all pairs of the train split are the same")
    ]
    labelled = data.model_copy(update={"task": "classification", "towers": {}})
    assert not identical_rows(table, labelled, "m.csv")
