"""Whatever a result depends on is known: a user's modules, the files that they name and read, the bytes behind a path."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest

import mmedge
from mmedge.recipe.dependencies import code_state, file_state, path_state, sources, still, watched


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe's folder whose factory imports in every way that Python knows; mmedge runs elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    home = tmp_path / "home"
    (home / "parts" / "deep").mkdir(parents=True)
    files = {
        "net.py": "import plain\nfrom parts import near\nfrom parts.deep.far import Far\n\ndef make(**args):\n    import late\n",
        "plain.py": "from once import again\n",
        "once.py": "again = 1\n",
        "late.py": "import importlib\nnamed = importlib.import_module('by_name')\n",
        "by_name.py": "x = 1\n",
        "parts/__init__.py": "y = 1\n",
        "parts/near.py": "from . import side\nfrom .deep import *\n",
        "parts/side.py": "z = 1\n",
        "parts/deep/__init__.py": "from ..cousin import w\n",
        "parts/cousin.py": "w = 1\n",
        "parts/deep/far.py": "class Far: pass\n",
        "apart.py": "nobody = 'imports me'\n",
    }
    for name, text in files.items():
        (home / name).write_text(text)
    return home


@pytest.mark.parametrize(
    "name",
    ["net", "plain", "once", "late", "by_name", "parts/__init__", "parts/near", "parts/side", "parts/deep/__init__", "parts/cousin", "parts/deep/far"],
)  # fmt: skip
def test_every_module_that_a_factorys_file_imports_counts_however_deep(folder, name):
    before = code_state("net:make", {}, folder)
    with (folder / f"{name}.py").open("a") as file:
        file.write("changed = True\n")
    assert code_state("net:make", {}, folder) != before


def test_a_module_that_nobody_imports_does_not_count(folder):
    before = code_state("net:make", {}, folder)
    (folder / "apart.py").write_text("changed = True\n")
    assert code_state("net:make", {}, folder) == before


def test_hashing_code_runs_none_of_it(folder, tmp_path):
    (folder / "once.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    code_state("net:make", {}, folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "args", [{"path": "data.npz"}, {"where": {"all": ["ABSOLUTE"]}}, {"path": "../home/data.npz"}, {"root": "sub"}]
)
def test_the_content_of_a_file_that_an_argument_names_counts(folder, args):
    for place in (folder / "data.npz", folder / "sub" / "deep" / "data.npz"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"one")
    args = {k: {"all": [str(folder / "data.npz")]} if k == "where" else v for k, v in args.items()}
    before = code_state("net:make", args, folder)
    assert code_state("net:make", args, folder) == before
    for place in (folder / "data.npz", folder / "sub" / "deep" / "data.npz"):
        told = place.stat()
        place.write_bytes(b"two")
        os.utime(place, ns=(told.st_atime_ns, told.st_mtime_ns))  # same name, size and time
    assert code_state("net:make", args, folder) != before


def test_a_file_beside_where_mmedge_runs_counts(folder):
    Path("data.npz").write_bytes(b"one")
    before = code_state("net:make", {"path": "data.npz"}, folder)
    Path("data.npz").write_bytes(b"two")
    assert code_state("net:make", {"path": "data.npz"}, folder) != before


def test_a_file_that_is_named_in_the_code_counts(folder):
    (folder / "once.py").write_text("weights = open('weights.bin')\n")
    (folder / "weights.bin").write_bytes(b"one")
    before = code_state("net:make", {}, folder)
    (folder / "weights.bin").write_bytes(b"two")
    assert code_state("net:make", {}, folder) != before


def test_neither_mmedge_itself_nor_the_systems_files_count_as_a_users(folder):
    root = Path(mmedge.__file__).parents[1]  # where `python -m` in a checkout finds mmedge as it does a user's modules
    (folder / "once.py").write_text("load = open('/proc/self/status')\n")
    assert folder / "once.py" in sources("net", folder)
    assert sources("mmedge.errors", root) == []
    before = code_state("net:make", {}, folder)
    assert code_state("net:make", {}, folder) == before  # what the system says of a process changes


def test_a_folder_too_large_to_read_counts_by_sizes_and_times_and_says_so(folder, monkeypatch):
    monkeypatch.setattr("mmedge.recipe.dependencies._MOST_FILES", 2)
    (folder / "many").mkdir()
    for number in range(4):
        (folder / "many" / f"{number}.txt").write_text("x")
    said: list[str] = []
    before = code_state("net:make", {"root": "many"}, folder, said.append)
    assert len(said) == 1 and "sizes and times" in said[0]
    (folder / "many" / "0.txt").write_text("longer")
    assert code_state("net:make", {"root": "many"}, folder) != before


def test_what_a_run_itself_writes_below_a_named_folder_does_not_count(folder):
    before = path_state(folder)
    (folder / "runs" / "demo" / ".work").mkdir(parents=True)
    (folder / "runs" / "demo" / "report.json").write_text("{}")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "net.pyc").write_bytes(b"x")
    assert path_state(folder) == before


def test_weights_that_lie_beside_an_onnx_graph_count(tmp_path):
    import onnx

    tensor = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", 1, [4])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], [tensor]))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    before = file_state(tmp_path / "m.onnx")
    (tmp_path / "m.bin").write_bytes(np.zeros(4, np.float32).tobytes())
    assert file_state(tmp_path / "m.onnx") != before


def test_files_that_code_reads_are_noted_and_those_that_it_writes_or_that_are_pythons_own_are_not(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("read", "apart", "out/own"):
        (tmp_path / name).write_text("1")
    np.save(tmp_path / "array.npy", np.zeros(2))
    with watched(tmp_path / "out") as read:
        (tmp_path / "read").read_text()
        np.load(tmp_path / "array.npy")
        (tmp_path / "out" / "own").read_text()
        (tmp_path / "written").write_text("1")
        Path(os.__file__).read_text()
    (tmp_path / "apart").read_text()
    assert set(read.files) == {str(tmp_path / "read"), str(tmp_path / "array.npy")} and not read.network
    assert still(read.files)
    (tmp_path / "read").write_text("2")
    assert not still(read.files)
    (tmp_path / "read").unlink()
    assert not still(read.files)


def test_asking_a_network_is_noted(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, watched(tmp_path) as read:
        socket.create_connection(server.getsockname()).close()
    assert read.network
