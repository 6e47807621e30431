"""Arrays of a user's own: what one call takes, told apart by the graph's ranks, and every misfit told by its input."""

import numpy as np
import pytest

from mmedge.backends.session import TensorInfo
from mmedge.data.arrays import read_calls
from mmedge.errors import MmedgeError, UsageError

F4, I8 = np.dtype(np.float32), np.dtype(np.int64)
ONE = {"x": TensorInfo(F4, (None, 3))}
# A voice detector's: a window a call, a state and a rate that are the same for all.
MANY = {"x": TensorInfo(F4, (None, None)), "state": TensorInfo(F4, (2, None, 4)), "rate": TensorInfo(I8, ())}


def array(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_the_first_axis_is_a_call_each_and_the_batch_axis_stays(tmp_path):
    x = array(5, 3)
    calls = read_calls(saved(tmp_path / "d.npz", x=x, labels=np.arange(5)), ONE)
    assert [call["x"].shape for call in calls.inputs] == [(1, 3)] * 5
    assert np.array_equal(np.concatenate([call["x"] for call in calls.inputs]), x)
    assert calls.labels.tolist() == [0, 1, 2, 3, 4] and calls.places[2].endswith("d.npz, call 2")


def test_whole_calls_have_one_axis_more_and_what_is_fixed_is_the_same_for_all(tmp_path):
    path = saved(tmp_path / "d.npz", x=array(6, 1, 9), state=np.zeros((2, 1, 4), np.float32), rate=np.array(8000))
    calls = read_calls(path, MANY)
    assert len(calls) == 6 and {call["state"].shape for call in calls.inputs} == {(2, 1, 4)}
    assert calls.inputs[3]["x"].shape == (1, 9) and calls.inputs[3]["rate"].shape == ()


def test_a_folder_of_calls_of_different_shapes(tmp_path):
    for number, width in enumerate((4, 7)):
        saved(tmp_path / f"{number}.npz", x=array(1, width), state=array(2, 1, 4), rate=np.array(1))
    assert [call["x"].shape for call in read_calls(str(tmp_path), MANY).inputs] == [(1, 4), (1, 7)]


def test_a_folder_of_npy_by_input_and_one_of_calls(tmp_path):
    np.save(tmp_path / "x.npy", array(4, 3))
    assert len(read_calls(str(tmp_path), ONE)) == 4
    (tmp_path / "more").mkdir()
    for number in range(2):
        np.save(tmp_path / "more" / f"s{number}.npy", array(3))
    assert [call["x"].shape for call in read_calls(str(tmp_path / "more"), ONE).inputs] == [(1, 3), (1, 3)]


def test_a_table_of_paths_with_labels(tmp_path):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", array(3))
    (tmp_path / "m.csv").write_text("x,label\n0.npy,1\n1.npy,0\n2.npy,1\n")
    calls = read_calls(str(tmp_path / "m.csv"), ONE)
    assert calls.labels.tolist() == [1, 0, 1] and calls.inputs[0]["x"].shape == (1, 3)
    (tmp_path / "bad.csv").write_text("x\nphoto.png\n")
    with pytest.raises(UsageError, match=r"'photo\.png' is no \.npy file") as raised:
        read_calls(str(tmp_path / "bad.csv"), ONE)
    assert "bad.csv:2, column x" in str(raised.value)


def test_a_function_builds_the_calls(tmp_path, monkeypatch):
    (tmp_path / "users_arrays.py").write_text(
        "import numpy as np\n"
        "def pair(): return {'x': np.zeros((4, 3), np.float32)}, [0, 1, 0, 1]\n"
        "def items(): return ({'x': np.zeros(3, np.float32)} for _ in range(2))\n"
        "def nothing(): return 7\n"
    )
    monkeypatch.chdir(tmp_path)
    assert read_calls("users_arrays:pair", ONE).labels.tolist() == [0, 1, 0, 1]
    assert len(read_calls("users_arrays:items", ONE)) == 2
    with pytest.raises(UsageError, match="returned int"):
        read_calls("users_arrays:nothing", ONE)


def test_labels_of_a_file_of_their_own(tmp_path):
    path = saved(tmp_path / "d.npz", x=array(3, 3))
    (tmp_path / "l.csv").write_text("id,label\na,2\nb,0\nc,1\n")
    assert read_calls(path, ONE, tmp_path / "l.csv").labels.tolist() == [2, 0, 1]
    np.save(tmp_path / "l.npy", np.array([1, 2]))
    with pytest.raises(UsageError, match="2 labels for 3 calls"):
        read_calls(path, ONE, tmp_path / "l.npy")
    np.save(tmp_path / "w.npy", np.array(["cat", "dog", "cat"]))
    with pytest.raises(UsageError, match="class number"):
        read_calls(path, ONE, tmp_path / "w.npy")


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"y": array(4, 3)}, "no input 'x'"),
        ({"x": array(4, 3), "mask": array(4)}, "has no input 'mask'"),
        ({"x": array(4, 5)}, r"an array of \[4, 5\]; the model takes \[any, 3\]"),
        ({"x": np.zeros((4, 3), np.int64)}, "'x' is int64; the model takes float32"),
        ({"x": np.zeros((4, 3), bool)}, "'x' is bool"),
        ({"x": array(4, 3), "labels": np.arange(3)}, "3 labels for 4 calls"),
    ],
)
def test_a_misfit_is_told_by_the_name_of_the_input(arrays, told, tmp_path):
    with pytest.raises(UsageError, match=told) as raised:
        read_calls(saved(tmp_path / "d.npz", **arrays), ONE)
    assert "d.npz" in str(raised.value)


def test_an_input_whose_shape_the_graph_does_not_declare_is_told_as_such(tmp_path):
    path = saved(tmp_path / "d.npz", x=array(4, 3))
    with pytest.raises(UsageError, match=r"an array of \[4, 3\].*declares no shape.*\n.*\n.*declare the shape of 'x'"):
        read_calls(path, {"x": TensorInfo(F4, ())})


def test_doubles_become_floats_and_nothing_is_unpickled(tmp_path):
    assert read_calls(saved(tmp_path / "d.npz", x=array(2, 3).astype(np.float64)), ONE).inputs[0]["x"].dtype == F4
    np.savez(tmp_path / "p.npz", x=np.array([{}, {}], dtype=object))
    with pytest.raises(MmedgeError, match="cannot be read"):
        read_calls(str(tmp_path / "p.npz"), ONE)
    with pytest.raises(MmedgeError, match="does not exist"):
        read_calls(str(tmp_path / "none.npz"), ONE)


@pytest.mark.parametrize("written", ["p{}.npy", "p{}", "old/p{}.npy", "old\\p{}.npy"])
def test_labels_of_a_folders_files_are_paired_by_the_column_that_names_them(tmp_path, written):
    (tmp_path / "calls").mkdir()
    for number in (1, 2, 10):
        np.save(tmp_path / f"calls/p{number}.npy", np.full(3, number, np.float32))
    (tmp_path / "l.csv").write_text("file,label\n" + "".join(f"{written.format(n)},{n}\n" for n in (1, 2, 3, 10)))
    calls = read_calls(str(tmp_path / "calls"), ONE, tmp_path / "l.csv")
    assert [call["x"][0, 0] for call in calls.inputs] == calls.labels.tolist() == [1, 10, 2]


def test_labels_in_an_order_that_names_and_numbers_do_not_agree_on_are_refused(tmp_path):
    (tmp_path / "calls").mkdir()
    for number in (1, 2, 10):
        np.save(tmp_path / f"calls/p{number}.npy", array(3))
    np.save(tmp_path / "l.npy", np.array([1, 2, 10]))
    with pytest.raises(UsageError, match=r"'p10\.npy' comes before 'p2\.npy'"):
        read_calls(str(tmp_path / "calls"), ONE, tmp_path / "l.npy")
    for number in (1, 2, 10):
        (tmp_path / f"calls/p{number}.npy").rename(tmp_path / f"calls/p{number:02}.npy")
    assert read_calls(str(tmp_path / "calls"), ONE, tmp_path / "l.npy").labels.tolist() == [1, 2, 10]
