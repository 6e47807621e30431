"""Files of outputs: every format gives the same answers, and what is wrong is told with its sample."""

import numpy as np
import polars
import pytest

from mmedge.data.outputs import read_outputs, stored_outputs, write_outputs
from mmedge.errors import MmedgeError
from mmedge.tasks import Head
from tests.heads import CLASSES

IDS, LABELS = ("a", "b", "c"), ("yes", "no")
LOGITS = np.array([[2.0, -1.0], [0.5, 0.25], [-3.0, 3.0]])
P = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def table(path, numbers=LOGITS, ids=IDS, labels=LABELS):
    made = polars.DataFrame({"id": list(ids), **{name: numbers[:, n] for n, name in enumerate(labels)}})
    match path.suffix:
        case ".parquet":
            made.write_parquet(path)
        case ".jsonl":
            made.write_ndjson(path)
        case suffix:
            made.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".npz"])
def test_logits_are_read_from_every_format_with_their_ids_and_classes(tmp_path, suffix):
    path = tmp_path / f"outputs{suffix}"
    if suffix == ".npz":
        np.savez(path, ids=np.array(IDS), labels=np.array(LABELS), logits=LOGITS)
    else:
        table(path)
    read = read_outputs(path, "logits", CLASSES)
    assert (read.ids, read.labels, read.logits.dtype) == (IDS, LABELS, np.float32)
    np.testing.assert_allclose(read.logits, LOGITS, rtol=1e-6)
    assert read.rows(["c", "nobody", "a"]).tolist() == [2, -1, 0]
    write_outputs(read, tmp_path / "stored.npz")
    stored = stored_outputs(tmp_path / "stored.npz")
    assert (stored.ids, stored.labels) == (IDS, LABELS) and np.array_equal(stored.logits, read.logits)


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_probabilities_become_logits_with_those_very_probabilities(tmp_path, suffix):
    path = tmp_path / f"outputs{suffix}"
    if suffix == ".npz":
        np.savez(path, ids=np.array(IDS), probabilities=P)
    else:
        table(path, P)
    read = read_outputs(path, "probabilities", CLASSES)
    softmax = np.exp(read.logits) / np.exp(read.logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax, P, rtol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "values", "said"), [(P, "logits", "say 'values: probabilities'"), (LOGITS, "probabilities", "sample a")]
)
def test_what_is_declared_wrongly_is_told(tmp_path, numbers, values, said):
    with pytest.raises(MmedgeError, match=said):
        read_outputs(table(tmp_path / "o.csv", numbers), values, CLASSES)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_output_that_is_not_finite_is_told_with_its_sample(tmp_path, bad, suffix):
    numbers = LOGITS.copy()
    numbers[1, 0] = bad
    with pytest.raises(MmedgeError, match="sample b"):
        read_outputs(table(tmp_path / f"o{suffix}", numbers), "logits", CLASSES)


def test_a_cell_that_is_no_number_an_id_that_stands_twice_and_a_file_without_ids_are_told(tmp_path):
    (tmp_path / "o.csv").write_text("id,yes,no\na,1,2\nb,much,3\n")
    with pytest.raises(MmedgeError, match="sample b"):
        read_outputs(tmp_path / "o.csv", "logits", CLASSES)
    with pytest.raises(MmedgeError, match="'a' stands in the file twice"):
        read_outputs(table(tmp_path / "o.csv", ids=("a", "b", "a")), "logits", CLASSES)
    table(tmp_path / "o.csv").write_text("ID,yes,no\na,1,2\n")
    with pytest.raises(MmedgeError, match="no column 'id'"):
        read_outputs(tmp_path / "o.csv", "logits", CLASSES)
    with pytest.raises(MmedgeError, match="does not exist"):
        read_outputs(tmp_path / "nowhere.csv", "logits", CLASSES)


def test_nothing_in_an_npz_is_unpickled(tmp_path):
    np.savez(tmp_path / "o.npz", ids=np.array(IDS, object), logits=LOGITS)
    with pytest.raises(MmedgeError, match="cannot be read"):
        read_outputs(tmp_path / "o.npz", "logits", CLASSES)
    np.savez(tmp_path / "o.npz", names=np.array(IDS), logits=LOGITS)
    with pytest.raises(MmedgeError, match="'ids' and 'logits' or 'probabilities'; it has names, logits"):
        read_outputs(tmp_path / "o.npz", "logits", CLASSES)


def test_a_regression_has_one_column_of_values(tmp_path):
    read = read_outputs(table(tmp_path / "o.csv", LOGITS[:, :1], labels=("age",)), "logits", Head(task="regression"))
    assert read.labels == () and read.logits.shape == (3, 1)
    with pytest.raises(MmedgeError, match="one output a sample"):
        read_outputs(table(tmp_path / "o.csv"), "logits", Head(task="regression"))


def test_probabilities_of_labels_that_do_not_exclude_each_other_become_log_odds(tmp_path):
    p = np.array([[0.9, 0.8], [0.1, 0.2], [0.5, 1.0]])
    read = read_outputs(table(tmp_path / "o.csv", p), "probabilities", Head(task="multilabel", labels=CLASSES.labels))
    np.testing.assert_allclose(1 / (1 + np.exp(-read.logits)), p, rtol=1e-5)
    with pytest.raises(MmedgeError, match="say 'values: probabilities'"):
        read_outputs(tmp_path / "o.csv", "logits", Head(task="multilabel", labels=CLASSES.labels))
