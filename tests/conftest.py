"""What the tests share: a small task of real files, a tiny recipe, and one finished run of it."""

from __future__ import annotations

import copy
import csv
import fcntl
import functools
import gc
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# One thread, so that sums are added in one order whatever else the machine does, in this process and in its children.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NNCF_CI"] = "1"

import pytest
import torch.onnx
from torch import nn

from mmedge import artifact, recipe
from mmedge.contract import Contract
from mmedge.data.builtin import avdigits, voices
from mmedge.data.store import samples
from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from mmedge.report.html import write_html
from mmedge.stages.prune.groups import cut, groups_of, take_apart
from mmedge.stages.prune.search import kept_units
from mmedge.stages.results import StageResult
from mmedge.training.context import Context
from tests.bundles import bundle, made_bundle, rewritten, sample  # noqa: F401  # fixtures

REPOSITORY = Path(__file__).parent.parent


def _with_one_table(export: Callable[..., Any]) -> Callable[..., Any]:
    """torch's exporter parses its table of operators at every call, a third of the time: here once a process."""

    @functools.wraps(export)
    def with_one_table(*arguments: Any, **named: Any) -> Any:
        from torch.onnx._internal.exporter._registration import ONNXRegistry as Table

        if not hasattr(Table.from_torchlib, "cache_info"):
            Table.from_torchlib = staticmethod(functools.cache(Table.from_torchlib))
        return export(*arguments, **named)

    return with_one_table


torch.onnx.export = _with_one_table(torch.onnx.export)


def pytest_collection_finish() -> None:
    gc.freeze()  # a million objects of imported modules, which the collector need not walk again and again


TRAIN = {"epochs": 2, "batch_size": 32, "learning_rate": 0.004, "augment": {"audio": {"shift": 2}}, "views": 2}


def tiny(manifest: Path) -> dict[str, Any]:
    """The tiny recipe over a manifest, as plain values that a test may change."""
    widths = {"image": {"widths": [4, 8]}, "audio": {"widths": [4, 8]}}
    return {
        "schema": 1,
        "name": "tiny",
        "seed": 0,
        "data": {
            "manifest": str(manifest),
            "id": "id",
            "group": "group",
            "split": "split",
            "modalities": {
                "image": {"kind": "image", "height": 28, "width": 28, "channels": 1},
                "audio": {
                    "kind": "audio",
                    "sample_rate": 8000,
                    "mels": 16,
                    "frames": 24,
                    "hop_ms": 32,
                    "window_ms": 32,
                },
            },
        },
        "teacher": {
            "model": {
                "encoders": {"image": {"widths": [8, 16]}, "audio": {"widths": [8, 16]}},
                "embedding": 24,
                "hidden": 24,
            },
            "train": copy.deepcopy(TRAIN),
        },
        "distill": {
            "model": {"encoders": widths, "embedding": 8, "hidden": 8},
            "loss": {"hints": [{"weight": 0.5}]},
            "train": copy.deepcopy(TRAIN),
            "controls": {"seeds": 1},
        },
        "prune": {
            "macs": 0.7,
            "round_to": 2,
            "ratios": [0.5],
            "probe_steps": 2,
            "max_drop": 1.0,
            "max_subset_drop": 1.0,
            "faster": False,  # a few channels are no faster than twice as few
            "train": copy.deepcopy(TRAIN),
        },
        "quantize": {"max_drop": 1.0, "max_subset_drop": 1.0, "calibration": 40},
        "export": {"targets": {"onnxruntime-cpu": {}, "tensorrt-rtx": {"precision": "fp16"}}},
        "measure": {"runs": 50, "warmup": 5, "bootstrap": 100},
        "report": {"explained": 20},  # laying out 300 takes longer than the whole run
        "gates": "none",  # sixty test samples tell no loss of two points; tests that are about gates set their own
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait for the finished run come first: a process makes it while another works at those that need none, as
    the type checker does, which takes longest of all."""
    waiting = {item.path for item in items if "finished" in getattr(item, "fixturenames", ())}
    waiting.add(Path(__file__).with_name("test_lint.py"))
    items.sort(key=lambda item: item.path not in waiting)


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` fills: by the first of this run's processes that wants it, for all of them."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed at it
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``manifest.csv`` and the PNG and WAV files it names: 240 / 50 / 60 pairs of digits, seen and heard."""
    return once(tmp_path_factory, "media", write_media)


def write_media(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avdigits, "_PAIRS_PER_DIGIT", {"train": 24, "validation": 5, "test": 6})
        patch.setattr(voices, "_SYNTHETIC", {"train": 240, "validation": 60, "test": 60})
        recordings = os.environ.get("MMEDGE_RECORDINGS")
        rows = avdigits.build(
            folder, seed=0, recordings=Path(recordings) if recordings else None, progress=lambda *_: None
        )
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "image", "audio", "label", "group", "split"], extrasaction="ignore")
        writer.writeheader()
        for split, of_split in rows.items():
            writer.writerows({**row, "split": split} for row in of_split)


@pytest.fixture
def values(media: Path) -> dict[str, Any]:
    """The tiny recipe's plain values, to change and to parse."""
    return tiny(media / "manifest.csv")


def parsed(values: dict[str, Any]) -> recipe.Recipe:
    return recipe.parse(values, where=Path("recipe.yaml"))


def write_recipe(values: dict[str, Any], path: Path) -> Path:
    """The recipe as a file; JSON is YAML."""
    artifact.write_json(path, values)
    return path


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its report and the recipe file that made it."""

    out: Path
    report: dict[str, Any]
    exit_code: int
    recipe_file: Path

    def artifact(self, stage: str) -> artifact.Artifact:
        return artifact.read(self.out / stage)

    def copied(self, out: Path, *stages: str) -> Path:
        """A run's folder with the prepared data and some of the stages in it, to go on from."""
        for name in ("data", ".work/tensors", *stages):
            shutil.copytree(self.out / name, out / name)
        return out

    def whole_copy(self, out: Path) -> Path:
        """All of the run's folder, for what writes to it or locks it: another test may run at the same time."""
        return Path(shutil.copytree(self.out, out))

    def stage(self, name: str) -> dict[str, Any]:
        return next(stage for stage in self.report["stages"] if stage["stage"] == name)


@pytest.fixture(scope="session")
def finished(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """ONE finished run of the tiny recipe, all stages. Tests read it, and run on copies of it: ``whole_copy``."""

    def make(folder: Path) -> None:
        file = write_recipe(tiny(media / "manifest.csv"), folder / "tiny.yaml")
        outcome = pipeline.run(recipe.load(file), folder / "out", code=folder, progress=Silent())
        write_html(outcome.report, folder / "out" / "report.html", folder / "out" / ".work" / "pictures")
        (folder / "outcome.pickle").write_bytes(pickle.dumps((outcome.report.record(), outcome.exit_code)))

    folder = once(tmp_path_factory, "run", make)
    report, exit_code = pickle.loads((folder / "outcome.pickle").read_bytes())
    return Run(folder / "out", report, exit_code, folder / "tiny.yaml")


@pytest.fixture(scope="session")
def dataset(finished: Run) -> samples.Dataset:
    """The preprocessed samples of the finished run."""
    return samples.prepare(recipe.load(finished.recipe_file), finished.out, code=finished.out.parent, progress=Silent())


def staged(
    run: Callable[..., StageResult], parent: Any, config: Any, context: Context, target: Path
) -> artifact.Artifact:
    """The artifact of a stage's function, written to ``target``."""
    return pipeline.make(
        run, parent, config, replace(context, out=target.parent, stage=target.name, key=context.key or "k")
    )


@pytest.fixture
def context(finished: Run, dataset: samples.Dataset, tmp_path: Path) -> Context:
    """A stage's context over the finished run's data, with a work folder of its own and the run's teacher."""
    return Context(
        recipe.load(finished.recipe_file),
        dataset,
        tmp_path,
        tmp_path,
        Silent(),
        finished.artifact("teacher"),
    )


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def mmedge(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """``mmedge(*arguments)``: the command in this process, with its exit code and what reached both file descriptors."""

    def call(*arguments: Any) -> Said:
        from mmedge.cli.main import main

        monkeypatch.setattr(sys, "argv", ["mmedge", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return call


def child_environment() -> dict[str, str]:
    """The environment of a Python subprocess that imports this very tree."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def narrowed(module: nn.Module, contract: Contract, config: recipe.Prune, ratio: float) -> list[Any]:
    """Prune ``module`` in place by one ratio everywhere; returns the pruning history."""
    history = take_apart(module)
    groups, _ = groups_of(module, contract, config)
    assert isinstance(config.round_to, int)
    return history + cut(module, contract, groups, kept_units({"": groups}, {"": ratio}, config.round_to))
