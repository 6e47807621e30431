"""Changes of meaning that tests must see: ``make mutants``. Each is made in a copy of the package, and its tests are run.

A change that no test sees has survived. Exit code 1 where fewer than nine of ten are killed, or one cannot be made since
the code is another by now: then put its row right. ``python -m tests.mutants WORD`` takes the files of that name alone.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARE, LONGEST_S = 0.9, 600
PRELOADED = (
    "torch",
    "onnx",
    "onnxruntime",
    "polars",
    "pydantic",
    "sklearn.metrics",
    "scipy.special",
    "PIL.Image",
    "rich",
)


@dataclass(frozen=True)
class Change:
    """``old``, which stands once in ``file``, becomes ``new``. ``tests``: files and folders of tests/, the quickest first.

    ``accepted``: why it may survive.
    """

    file: str
    old: str
    new: str
    tests: str
    accepted: str = ""


GATE, JUDGING, KEYS, FIT = (
    "test_gate.py",
    "pipeline/test_judging.py",
    "pipeline/test_keys.py",
    "training/loop/test_fit.py",
)
QUALITY, BATCHES, SPLITS = (
    "measure/test_gain.py measure/test_quality.py",
    "training/loop/test_batches.py",
    "data/manifest/test_splits.py",
)
INTERVALS = "measure/test_intervals.py measure/test_paired.py"
LOSSES, BUNDLE, VALUES = "training/losses", "test_artifact.py test_bundle.py", "preprocess"
CHANGES = (
    # Gates and judging.
    Change("gate.py", "worse >= least - _ROUNDING", "worse > least + _ROUNDING", GATE),
    Change("gate.py", "better < least - _ROUNDING", "worse < least - _ROUNDING", GATE),
    Change("gate.py", "if found is None or math.isnan(found.value):", "if False:", GATE),
    Change("gate.py", "(found.low, found.high) if minimum else", "(found.value, found.high) if minimum else", GATE),
    Change("gate.py", "family(name) != GUARD and", "", GATE),
    Change("gate.py", "return min((FIGURES", "return max((FIGURES", GATE),
    Change("gate.py", "return all(gate.passed", "return any(gate.passed", GATE),
    Change("gate.py", "(reach / gap) ** 2", "reach / gap", GATE),
    Change("gate.py", "GUARD_CONFIDENCE if family(name) == GUARD else confidence", "confidence", GATE),
    Change("pipeline/judging.py", "record.params / teacher.params", "teacher.params / record.params", JUDGING),
    Change("pipeline/judging.py", "record.macs / parent.macs", "record.macs / teacher.macs", JUDGING),
    Change("pipeline/judging.py", 'others[against or "student"]', 'others[against or "parent"]', JUDGING),
    Change("pipeline/judging.py", "return Estimate(-more.value, -more.high, -more.low,", "return Estimate(more.value, more.low, more.high,", JUDGING),
    Change("pipeline/judging.py", "1 + part / abs(theirs)", "part / abs(theirs)", JUDGING),
    Change("pipeline/judging.py", "if over.seeds > 1:", "if True:", JUDGING),
    Change("pipeline/judging.py", "if not self.own:\n            limits", "if self.own:\n            limits", JUDGING),
    Change("pipeline/evidence.py", "rows_of(all_theirs, np.array([place[samples.ids[row]]", "rows_of(all_theirs, np.array([row", JUDGING),
    Change("recipe/gates.py", 'found.setdefault(stage, {}).setdefault(f"{before}{GUARD}", 0.0)', "pass", "pipeline/test_gates.py"),
    Change("measure/budget.py", 'each.high if self.policy == "strict" else each.value for name, each in losses.items()}\n        # D', 'each.value for name, each in losses.items()}\n        # D', "measure/test_budget.py stages/quantize/test_candidates.py"),
    Change("stages/preference.py", "part = (1 - confidence) / (len(listed) + 1)", "part = 1 - confidence", "stages/quantize/test_candidates.py"),
    Change("pipeline/measuring.py", "(compared.against, compared.students)", "(compared.students, compared.against)", JUDGING),
    # What a figure is.
    Change("measure/gain.py", " * units / max(1, units - 1)", "", QUALITY),
    Change("measure/gain.py", "variance = max(of_seeds, of_samples) / seeds + shared", "variance = of_seeds / seeds + shared", QUALITY),
    Change("measure/gain.py", "variance = max(of_seeds, of_samples) / seeds + shared", "variance = max(of_seeds, of_samples) / seeds", QUALITY),
    Change("measure/gain.py", "0.975", "0.95", QUALITY),
    Change("measure/gain.py", "return figure(ours, rows) - figure(theirs, rows)", "return figure(theirs, rows) - figure(ours, rows)", QUALITY),
    Change("measure/gain.py", "if value > 0:", "if value >= 0:", QUALITY),
    Change("measure/quality.py", "0.5 * quality + 0.5 *", "0.9 * quality + 0.1 *", QUALITY),
    Change("measure/quality.py", "rng.integers(len(members), size=len(members))", "rng.permutation(len(members))", QUALITY),
    Change("measure/intervals.py", "min(low for low, _ in reaches)", "max(low for low, _ in reaches)", INTERVALS),
    Change("measure/intervals.py", "design = max(1.0, of_groups / of_samples)", "design = max(1.0, 0.0)", INTERVALS),
    Change("measure/intervals.py", "few = (student(tail, n - 1) / student(tail, count - 1)) ** 2", "few = 1.0", INTERVALS),
    Change("measure/intervals.py", "hits + 1, size - hits, 1 - tail", "hits, size - hits, 1 - tail", INTERVALS),
    Change("measure/paired.py", "scores >= float(score)", "scores > 1 + float(score)", INTERVALS),
    Change("measure/comparing.py", "score(contract, ours, targets) - score(contract, theirs, targets)", "score(contract, theirs, targets) - score(contract, ours, targets)", INTERVALS),
    Change("measure/comparing.py", "rows_of(ours, rows), some) - score(contract, rows_of(theirs, rows)", "rows_of(theirs, rows), some) - score(contract, rows_of(ours, rows)", INTERVALS),
    Change("tasks/regression.py", "((true - true.mean()) ** 2).sum()", "(true**2).sum()", QUALITY + " models/test_regression.py"),
    Change("tasks/classification.py", "output.argmax(axis=1) == targets", "output.argmin(axis=1) == targets", QUALITY),
    # Training.
    Change("training/loop/fit.py", 'history[index]["selection"], index', 'history[index]["quality"], index', FIT),
    Change("training/loop/fit.py", 'history[index]["selection"], index', 'history[index]["selection"], -index', FIT),
    Change("training/loop/fit.py", "learner(part.to(device)) * part.share", "learner(part.to(device))", FIT),
    Change("training/loop/fit.py", "\n    if run.average:\n        run.average.update()", "", FIT),
    Change("training/loop/fit.py", "len(history) - _best(history) >=", "len(history) - _best(history) >", FIT),
    Change("training/loop/batches.py", "rng.random(len(available)) < share", "rng.random(len(available)) >= share", BATCHES),
    Change("training/loop/batches.py", "available & proper[", "proper[", BATCHES),
    Change("training/loop/batches.py", "view, towers = epoch % train.views", "view, towers = 0", BATCHES),
    Change("training/loop/batches.py", "np.stack([np.ones_like(chosen), chosen, ~chosen]", "np.stack([np.ones_like(chosen), chosen, chosen]", f"training/test_objectives.py {BATCHES}"),
    Change("models/encoders/text.py", "std=_SPREAD", "std=1.0", "models/test_encoders.py"),
    Change("models/encoders/text.py", "embedded.detach() if self.bag", "embedded if self.bag", "models/test_encoders.py"),
    Change("training/loop/frozen_parts.py", "any(inner.training for", "any(False for", "training/loop/test_frozen_parts.py"),
    Change("training/loop/frozen_parts.py", "not any(p.requires_grad for", "any(True for", "training/loop/test_frozen_parts.py"),
    Change("stages/train.py", "(context.dataset.train, context.dataset.validation)", "(context.dataset.train, context.dataset.test)", "stages/test_stages.py"),
    Change("training/losses/classification.py", "return divergence * temperature**2", "return divergence * temperature", LOSSES),
    Change("training/losses/classification.py", "of_target + beta * of_others", "beta * of_target + of_others", LOSSES),
    Change("training/losses/classification.py", "ignore_index=-1, label_smoothing=smoothing, reduction=\"sum\"", "label_smoothing=smoothing, reduction=\"sum\"", LOSSES),
    Change("training/losses/multilabel.py", "return divergence.mean() * temperature**2", "return divergence.sum() * temperature**2", LOSSES),
    Change("training/losses/hints.py", "+ 2 * _angle_loss", "+ _angle_loss", LOSSES),
    Change("training/losses/hints.py", "F.normalize(projected, dim=1) -", "projected -", LOSSES),
    Change("measure/budget.py", "self.max_drop if name == WHOLE else self.max_subset_drop", "self.max_drop", "stages/quantize/test_candidates.py"),
    Change("stages/prune/outcome.py", "passed=budget.over(lost) <= 0", "passed=True", "stages/prune/test_outcome.py"),
    Change("measure/budget.py", "rows_of(outputs, rows), rows_of(after[name][1], rows)", "rows_of(after[name][1], rows), rows_of(outputs, rows)", "measure/test_budget.py"),
    # Cache keys.
    Change("pipeline/keys.py", "                recipe.seed,\n", "", KEYS),
    Change("pipeline/keys.py", '"data": context.dataset.sha256,', '', KEYS),
    Change("pipeline/keys.py", '"teacher": teacher.sha256 if', '"teacher": None if', KEYS),
    Change("pipeline/keys.py", '"parent": parent and parent.sha256,', '', KEYS),
    Change("pipeline/keys.py", "for section in sections for digest in _weights(section)", "for section in () for digest in _weights(section)", KEYS),
    Change("pipeline/keys.py", "code_hash(*CODE, step.row.file)", "code_hash(*CODE)", KEYS),
    Change("pipeline/keys.py", "                *map(_dumped, sections),\n", "", KEYS),
    # Bundles and artifacts.
    Change("artifact.py", "if sha256_of(file) != digest:", "if False:", BUNDLE),
    Change("artifact.py", 'if digest != record.get("sha256"):', "if False:", BUNDLE),
    Change("artifact.py", 'relative.is_absolute() or ".." in relative.parts', "relative.is_absolute()", BUNDLE),
    Change("bundle.py", "public.verify(signature, manifest)", "pass", BUNDLE),
    Change("bundle.py", "if name not in found.files:", "if False:", f"{BUNDLE} runtime/test_subsets.py"),
    Change("bundle.py", "found.stage != STAGE and not any_stage", "False", BUNDLE + " runtime/test_engine.py"),
    Change("runtime/engine.py", "all(sample.keys() == names", "any(sample.keys() == names", "runtime/test_subsets.py"),
    # Splits and preprocessing.
    Change("data/manifest/splits.py", "shares * (number + 1) - counts", "shares * number - counts", SPLITS),
    Change("data/manifest/splits.py", "test = parts == fold.index", "test = parts == 0", SPLITS),
    Change("data/manifest/splits.py", "if faults < least:", "if faults > least:", SPLITS),
    Change("data/manifest/splits.py", "seed + 1 + fold.index", "seed", SPLITS, accepted="another draw of as good a validation split"),
    Change("preprocess/values.py", "max(0, length - wanted) // 2", "max(0, length - wanted) // 2 + 1", VALUES),
    Change("preprocess/values.py", '"end": max(0, length - wanted)', '"end": max(0, length - wanted - 1)', VALUES),
    Change("preprocess/sensor.py", "grid = seconds[0] + ", "grid = ", VALUES),
    Change("preprocess/sensor.py", 'mode="edge"', 'mode="constant"', VALUES),
    Change("preprocess/image.py", "(width - across) // 2", "0", VALUES),
    Change("preprocess/image.py", "(255, 255, 255, 255)", "(0, 0, 0, 255)", VALUES),
    Change("preprocess/image.py", "ImageOps.exif_transpose(picture, in_place=True)", "pass", VALUES),
    Change("preprocess/tabular.py", "values.index(word) + 1", "values.index(word)", VALUES),
    Change("preprocess/tabular.py", "[float(cell is None) for", "[float(cell is not None) for", VALUES),
    Change("preprocess/mel.py", "32768", "32767", VALUES),
    Change("preprocess/audio.py", "block.mean(axis=1) if", "block[:, 0] if", VALUES),
)  # fmt: skip


def outcome(change: Change) -> tuple[str, float]:
    """``killed``, ``survived``, or why the change could not be made; and the seconds that it took. In a process of its own."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        tree = Path(name)
        for part in ("mmedge", "tests"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("recipes", "deploy", "pyproject.toml", "README.md", "Makefile"):
            (tree / part).symlink_to(ROOT / part)
        file = tree / "mmedge" / change.file
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if change.old and text.count(change.old) != 1:
            return f"the text stands {text.count(change.old)} times", 0.0
        file.write_text(text.replace(change.old, change.new) if change.old else text, encoding="utf-8")
        code, told = _tested(tree, [f"tests/{test}" for test in change.tests.split()])
    found = "killed" if code == 1 else "survived" if code == 0 else f"its tests do not run: {told[-500:]}"
    return found, time.monotonic() - began


def _tested(tree: Path, tests: list[str]) -> tuple[int, str]:
    """pytest's exit code over the tests of a tree, and what it printed; 1 where they take too long."""
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(tree))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mmedge", "tests")]:
        del sys.modules[name]

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST_S)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = int(
                pytest.main(["-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-m", "not slow", *tests])
            )
        except TimeoutError:
            code = 1
    signal.alarm(0)
    return code, said.getvalue()


def main(word: str = "") -> int:
    chosen = [change for change in CHANGES if word in change.file]
    counts = {"killed": 0, "survived": 0, "accepted": 0, "impossible": 0}
    # Before torch is there: a test that starts a process, which sees it, compares weights bit for bit with its own.
    os.environ["OMP_NUM_THREADS"] = "1"
    for package in PRELOADED:  # imported once; a process of each change is forked from this one
        importlib.import_module(package)
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        unchanged = [Change("gate.py", "", "", tests) for tests in dict.fromkeys(change.tests for change in chosen)]
        for change, (found, _) in zip(unchanged, pool.imap(outcome, unchanged)):
            if found != "survived":
                print(f"these tests fail before anything is changed: {change.tests}")
                return 1
        for change, (found, seconds) in zip(chosen, pool.imap(outcome, chosen)):
            kind = found if found in counts else "impossible"
            kind = "accepted" if kind == "survived" and change.accepted else kind
            counts[kind] += 1
            reason = f" ({change.accepted})" if kind == "accepted" else f" ({found})" if kind == "impossible" else ""
            print(
                f"{kind}{reason} ({seconds:.0f} s) {change.file}: {change.old} -> {change.new or 'nothing'}", flush=True
            )
    made = len(chosen) - counts["impossible"]
    print(f"{counts['killed']} of {made} killed; " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    return 1 if counts["impossible"] or counts["killed"] < SHARE * made else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
