"""One temperature a head: found where the likelihood is greatest, mended on test, and no label changes by it."""

import numpy as np
import pytest

from mmedge.contract import Contract
from mmedge.measure.temperature import temperature, temperatures, told
from mmedge.spec import ArraySpec
from mmedge.tasks import Head, of
from tests.heads import samples

HEADS = {
    "classification": Head(task="classification", labels=("a", "b", "c")),
    "ordinal": Head(task="ordinal", labels=("a", "b", "c")),
    "multilabel": Head(task="multilabel", labels=("a", "b")),
}


def drawn(task, n=2000, seed=0):
    """(logits, targets drawn by just these probabilities): calibrated by construction."""
    head, random = HEADS[task], np.random.default_rng(seed)
    output = random.normal(size=(n, of(head).width(head))) * 1.5
    if task == "ordinal":
        output = np.sort(output, axis=1)[:, ::-1]
    p = of(head).probabilities(output)
    if task == "multilabel":
        return output, (random.random(p.shape) < p).astype(np.float32)
    return output, (random.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=2)


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_outputs_that_are_sure_by_a_factor_too_much_are_divided_by_it(task, factor):
    output, targets = drawn(task)
    assert temperature(HEADS[task], factor * output, targets) == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("task", HEADS)
def test_the_error_on_test_falls_and_predictions_keep_their_labels(task):
    head, sets = HEADS[task], []
    contract = Contract(modalities={"x": ArraySpec(kind="array", shape=(1,))}, heads={"h": head})
    for seed in range(2):
        output, targets = drawn(task, 600, seed)
        rows = np.arange(len(output))
        split = samples("test", tuple(map(str, rows)), {}, np.ones((600, 1), bool), targets, rows, head=head, name="h")
        sets.append(({"h": (4 * output).astype(np.float32)}, split))
    fitted = temperatures(contract, *sets[0])
    found = told(contract, *sets[1], fitted)["h"]
    assert found.ece < 0.5 * found.ece_before and found.ece_ci95[0] <= found.ece <= found.ece_ci95[1] and found.n == 600
    assert f"temperature {fitted['h']:.3g}" in str(found)
    raw, heated = (of(head).predictions(sets[1][0]["h"], each) for each in (head, head.at(fitted["h"])))
    for before, after in zip(raw, heated):
        assert (before.label, before.labels, before.rank) == (after.label, after.labels, after.rank)
    moved = [np.abs(np.subtract(list(b.probabilities.values()), list(a.probabilities.values()))).max() for b, a in zip(raw, heated)]  # fmt: skip
    assert max(moved) > 0.1


def test_few_rows_and_numbers_have_none():
    contract = Contract(modalities={"x": ArraySpec(kind="array", shape=(1,))}, heads={"h": Head(task="regression")})
    rows = np.arange(40)
    split = samples("v", tuple(map(str, rows)), {}, np.ones((40, 1), bool), np.zeros(40), rows, head=contract.heads["h"], name="h")  # fmt: skip
    assert temperatures(contract, {"h": np.zeros((40, 1))}, split) == {}
    head = HEADS["classification"]
    few = samples("v", ("a",), {}, np.ones((1, 1), bool), np.zeros(1, np.int64), np.zeros(1), head=head, name="h")
    assert temperatures(contract.model_copy(update={"heads": {"h": head}}), {"h": np.zeros((1, 3))}, few) == {}
    # Where every row is right nothing is learned but to be sure: the search ends at its border, and finite.
    sure = temperature(head, 5 * np.eye(3)[[0, 1, 2] * 20], np.array([0, 1, 2] * 20))
    assert 0.04 < sure < 1
