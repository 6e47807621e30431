"""Which code a recipe or an artifact may name: the folder's own modules, and packages that the user allows; no other is run."""

import json
import shutil
import sys

import pytest

from mmedge import artifact
from mmedge.errors import UsageError
from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from mmedge.recipe.code import allowing, config_file, load_attribute
from tests.conftest import parsed, write_recipe

OWN = """\
import functools
import torch
from torch import nn
from os import system
from shutil import rmtree
from subprocess import Popen
from package_of_code import function as from_package

class Net(nn.Module):
    pass

class NoNet:
    pass

def make():
    return Net()

@torch.no_grad()
@functools.lru_cache
def decorated():
    return Net()

value = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A recipe's folder, and an installed package that notes when it is imported."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    installed = tmp_path / "site-packages" / "package_of_code"
    installed.mkdir(parents=True)
    text = f"open({str(tmp_path / 'imported')!r}, 'w')\ndef function(): pass\ndef _code(): pass\n"
    (installed / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(installed.parent))
    home = tmp_path / "home"
    home.mkdir()
    (home / "own_code.py").write_text(OWN)
    yield home
    for name in ("own_code", "package_of_code", "moved_code"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["Net", "make", "decorated"])
def test_a_network_or_function_that_is_defined_beside_the_recipe_is_taken(folder, name):
    assert load_attribute(f"own_code:{name}", folder).__module__ == "own_code"


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "subprocess:run",
        "shutil:rmtree",
        "builtins:eval",
        "importlib.util:module_from_spec",
        "posix:system",
    ],
)
def test_nothing_of_pythons_own_is_taken_with_or_without_a_word(folder, name):
    with pytest.raises(UsageError, match="a recipe runs none of those"):
        load_attribute(name, folder)
    with allowing([name.partition(":")[0].partition(".")[0]]), pytest.raises(UsageError, match="runs none of those"):
        load_attribute(name, folder)


@pytest.mark.parametrize("name", ["system", "rmtree", "Popen", "NoNet", "value", "from_package", "torch"])
def test_what_a_module_beside_the_recipe_only_imports_or_what_makes_no_network_is_not_taken(folder, name):
    with pytest.raises(UsageError, match=r"it is (a|the class|defined in)"):
        load_attribute(f"own_code:{name}", folder)


def test_a_dataset_may_be_any_class_that_is_defined_there_but_not_one_that_is_imported(folder):
    assert load_attribute("own_code:NoNet", folder, "dataset").__name__ == "NoNet"
    with pytest.raises(UsageError, match="defined in 'subprocess'"):
        load_attribute("own_code:Popen", folder, "dataset")


def test_an_installed_package_is_not_imported_without_the_users_word(folder, tmp_path):
    with pytest.raises(UsageError, match="--allow-code package_of_code"):
        load_attribute("package_of_code:function", folder)
    assert not (tmp_path / "imported").exists()
    with allowing(["package_of_code"]):
        assert load_attribute("package_of_code:function", folder).__name__ == "function"
    with pytest.raises(UsageError):
        load_attribute("package_of_code:function", folder)


def test_the_users_own_file_allows_a_package_too(folder):
    config_file().parent.mkdir(parents=True)
    config_file().write_text("code: [package_of_code]\n")
    assert load_attribute("package_of_code:function", folder)


@pytest.mark.parametrize("text", ["- timm", "code: timm", "cdoe: [timm]", "code: [1]", "{"])
def test_a_wrong_file_of_the_users_is_told(folder, text):
    config_file().parent.mkdir(parents=True)
    config_file().write_text(text)
    with pytest.raises(UsageError, match=r"code: \[timm\]"):
        load_attribute("package_of_code:function", folder)


def test_an_installed_package_below_the_recipes_folder_is_not_the_folders_own(folder, monkeypatch):
    place = folder / ".venv" / "lib" / "site-packages"
    place.mkdir(parents=True)
    (place / "package_in_venv.py").write_text("def make(): pass\n")
    monkeypatch.syspath_prepend(str(place))
    with pytest.raises(UsageError, match="no module of the recipe's folder"):
        load_attribute("package_in_venv:make", folder)


def test_a_changed_module_is_imported_again_and_another_folders_is_not_mistaken_for_it(folder, tmp_path):
    (folder / "moved_code.py").write_text("import own_part_of_it\ndef make(): return own_part_of_it.value\n")
    (folder / "own_part_of_it.py").write_text("value = 1\n")
    assert load_attribute("moved_code:make", folder)() == 1
    (folder / "own_part_of_it.py").write_text("value = 22\n")
    assert load_attribute("moved_code:make", folder)() == 22
    other = tmp_path / "other"
    other.mkdir()
    (other / "moved_code.py").write_text("def make(): return 333\n")
    assert load_attribute("moved_code:make", other)() == 333


EVIL = "open({marker!r}, 'w')\nimport torch\nclass Net(torch.nn.Module):\n    def forward(self, image, audio): return image\n"


@pytest.fixture
def foreign(finished, tmp_path):
    """A teacher's artifact from elsewhere whose manifest names a module that is there to be imported, and that leaves a mark."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "evil_code.py").write_text(EVIL.format(marker=str(tmp_path / "ran")))
    made = tmp_path / "foreign" / "teacher"
    shutil.copytree(finished.out / "teacher", made)
    record = json.loads((made / "manifest.json").read_text())
    record["meta"]["model"]["factory"] = "evil_code:Net"
    record["meta"]["recipe"]["teacher"]["model"] = {"factory": "evil_code:Net"}
    body = {key: value for key, value in record.items() if key != "sha256"}
    artifact.write_json(made / "manifest.json", {**body, "sha256": artifact.hash_json(body)})
    yield made
    sys.modules.pop("evil_code", None)


@pytest.mark.parametrize("way", ["from", "teachers", "recipe", "check"])
def test_code_that_an_artifact_names_is_told_and_not_run_without_a_word(
    finished, values, foreign, tmp_path, way, mmedge
):
    code = tmp_path / "code"
    if way in ("teachers", "check"):
        values["distill"]["teachers"] = [{"artifact": str(foreign)}]
    out = finished.copied(tmp_path / "out", *(["teacher"] if way == "teachers" else []))
    if way == "from":
        with pytest.raises(UsageError, match="--allow-code evil_code"):
            pipeline.run(parsed(values), out, code=code, progress=Silent(), start=foreign, only="distill")
    elif way == "teachers":
        with pytest.raises(UsageError, match="--allow-code evil_code"):
            pipeline.run(parsed(values), out, code=code, progress=Silent(), only="distill")
    elif way == "recipe":
        said = mmedge("distill", foreign, "--out", out)
        assert said.code == 2 and "--allow-code evil_code" in said.err
    else:
        said = mmedge("check", write_recipe(values, code / "r.yaml"), "--out", out, "--no-media")
        assert said.code == 1 and "--allow-code evil_code" in said.err
    assert not (tmp_path / "ran").exists()


def test_code_that_an_artifact_names_is_run_at_the_users_word(finished, values, foreign, tmp_path):
    from mmedge.data.store import samples
    from mmedge.training.context import Context

    dataset = samples.prepare(parsed(values), finished.copied(tmp_path / "out"), code=tmp_path, progress=Silent())
    context = Context(parsed(values), dataset, tmp_path / "w", tmp_path / "code", Silent())
    with pytest.raises(UsageError):
        context.rebuild(artifact.read(foreign))
    with allowing(["evil_code"]), pytest.raises(Exception) as raised:  # its weights are of another network
        context.rebuild(artifact.read(foreign))
    assert "weights do not fit" in str(raised.value) and (tmp_path / "ran").exists()


@pytest.mark.long
def test_report_and_profile_import_nothing_that_an_artifact_names(finished, foreign, tmp_path, mmedge, monkeypatch):
    shutil.copy(finished.out / "report.json", foreign.parent / "report.json")
    monkeypatch.chdir(tmp_path / "code")
    assert mmedge("report", foreign.parent).code == 0
    assert mmedge("profile", foreign / "model.onnx", "--runs", "20", "--out", tmp_path / "p").code == 0
    assert not (tmp_path / "ran").exists()


def test_a_recipe_that_names_a_command_does_not_run_it_when_it_is_checked(values, tmp_path, mmedge):
    values["teacher"]["model"] = {"factory": "os:system", "args": {"command": f"touch {tmp_path / 'ran'}"}}
    said = mmedge("check", write_recipe(values, tmp_path / "r.yaml"), "--out", tmp_path / "out", "--no-media")
    assert said.code == 1 and "a recipe runs none of those" in said.err and not (tmp_path / "ran").exists()


def test_a_wrong_name_after_allow_code_is_told(values, tmp_path, mmedge):
    said = mmedge("check", write_recipe(values, tmp_path / "r.yaml"), "--allow-code", "../x")
    assert said.code == 2 and "takes a package's name" in said.err
