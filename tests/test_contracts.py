"""The house: layers, forbidden imports, and what an import really pulls in (import-linter does not see __init__.py)."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmedge
from tests.conftest import REPOSITORY, child_environment

TORCH_FREE = (
    "mmedge.runtime",
    "mmedge.preprocess",
    "mmedge.backends",
    "mmedge.profiling",
    "mmedge.tasks",
    "mmedge.recipe",
    "mmedge.bundle",
    "mmedge.artifact",
    "mmedge.contract",
    "mmedge.spec",
    "mmedge.gate",
    "mmedge.machine",
    "mmedge.tokenizer",
    "mmedge.tracking",
    "mmedge.hub",
    "mmedge.errors",
    "mmedge.progress",
)

HEAVY = (
    "torch",
    "click",
    "nncf",
    "onnx",
    "polars",
    "matplotlib",
    "sklearn",
    "torch_pruning",
    "safetensors",
    "jinja2",
    "tensorrt_rtx",
    "mlxtend",
    "espeakng_loader",
)

# Makes the packages unimportable, as where only the base install is; click stays there for the command line.
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)
sys.meta_path.insert(0, Blocked())
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def submodules(package: str) -> list[str]:
    folder = Path(mmedge.__file__).parent.joinpath(*package.split(".")[1:])
    return [package, *(found.name for found in pkgutil.walk_packages([str(folder)], f"{package}."))]


def test_import_linters_contracts_hold():
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [command, "--no-cache"], cwd=REPOSITORY, env=child_environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_runtime_and_all_its_submodules_pulls_in_nothing_heavy():
    names = [name for package in TORCH_FREE for name in submodules(package)]
    assert "mmedge.backends.tensorrt" in names
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = python(code, *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["predict", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom mmedge.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code, ended.code\n"
        f"heavy = set({HEAVY!r}) - {{'click'}} | {{'numpy', 'onnxruntime', 'pydantic', 'rich', 'PIL'}}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = python(code, *arguments)
    assert done.returncode == 0 and done.stdout, done.stderr
    assert done.stderr.split() == []


def test_the_package_itself_imports_nothing():
    done = python("import sys; before = set(sys.modules); import mmedge; print(*(set(sys.modules) - before))")
    assert set(done.stdout.split()) <= {"mmedge", "__future__"}


def test_a_bundle_predicts_where_only_the_base_install_is(finished, media):
    code = f"BLOCKED = {(*HEAVY, 'scipy', 'pandas')!r}\n{BLOCK}" + (
        "import json, sys, mmedge.runtime\n"
        "bundle, image, audio = sys.argv[1:]\n"
        "engine = mmedge.runtime.load(bundle)\n"
        "print(json.dumps([engine.predict(image=image, audio=audio).record(), engine.predict(audio=audio).record()]))"
    )
    pictures, sounds = sorted((media / "image").glob("test-3-*")), sorted((media / "audio").glob("test-3-*"))
    done = python(code, finished.out / "bundle", pictures[0], sounds[0])
    assert done.returncode == 0, done.stderr
    import json

    from mmedge import runtime

    here = runtime.load(finished.out / "bundle")
    assert json.loads(done.stdout) == [
        here.predict(image=pictures[0], audio=sounds[0]).record(),
        here.predict(audio=sounds[0]).record(),
    ]


def test_the_predict_command_runs_where_only_the_base_install_is(finished, media):
    blocked = tuple(name for name in HEAVY if name != "click")
    code = f"BLOCKED = {blocked!r}\n{BLOCK}from mmedge.cli.main import main\nmain()"
    sound = sorted((media / "audio").glob("test-3-*"))[0]
    done = python(code, "predict", finished.out / "bundle", "--audio", sound, "--json")
    assert done.returncode == 0, done.stderr
    assert '"label"' in done.stdout


@pytest.mark.parametrize("verb", ["run", "train", "check"])
def test_a_verb_that_trains_says_what_to_install_where_only_the_base_install_is(finished, verb):
    blocked = tuple(name for name in HEAVY if name != "click")
    code = f"BLOCKED = {blocked!r}\n{BLOCK}from mmedge.cli.main import main\nmain()"
    done = python(code, verb, finished.recipe_file, "--out", finished.out.parent / "base-only")
    assert done.returncode == 6, done.stderr
    assert "mmedge[toolchain]" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_base_install_alone_predicts_in_an_environment_of_its_own(finished, media, tmp_path):
    """A venv with the base dependencies only, from the package index: no torch, no onnx."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run(
        [venv / "bin/pip", "install", "-q", "-c", REPOSITORY / "deploy/constraints.txt", REPOSITORY], check=True
    )
    listed = subprocess.run([venv / "bin/pip", "list"], capture_output=True, text=True, check=True).stdout.lower()
    assert not {"torch", "onnx", "nncf", "polars"} & {line.split()[0] for line in listed.splitlines() if line}
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    subprocess.run(
        [venv / "bin/python", "-c", code, *(name for package in TORCH_FREE for name in submodules(package))],
        check=True,
        cwd=tmp_path,
    )
    image, sound = (sorted((media / kind).glob("test-3-*"))[0] for kind in ("image", "audio"))
    done = subprocess.run(
        [venv / "bin/mmedge", "predict", finished.out / "bundle", "--image", image, "--audio", sound],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 5, done.stderr


def test_nothing_is_reported_to_anybody(made_bundle, tmp_path):
    """ONNX Runtime keeps an identifier among temporary files, and sends with it what it runs, where nobody tells it not to."""
    environment = {name: value for name, value in child_environment().items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"TMPDIR": str(tmp_path / "t"), "HOME": str(tmp_path / "h"), "XDG_CACHE_HOME": str(tmp_path / "h/c")}
    for name in ("t", "h"):
        (tmp_path / name).mkdir()
    code = "import mmedge.runtime as runtime, sys; runtime.load(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(made_bundle)], env=environment, check=True)
    assert not [path.name for path in tmp_path.rglob("*") if path.is_file()]
