"""What the functions return: where the files are, the figures that were taken, the report, and a way to go on."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmedge.api import candidates
from mmedge.errors import UsageError

if TYPE_CHECKING:
    from mmedge.profiling.record import ProfileRecord
    from mmedge.recipe import Recipe
    from mmedge.report.charts.frontier import Point
    from mmedge.report.quantized_file import FileReport
    from mmedge.report.schema import Report, StageRecord
    from mmedge.runtime.engine import Engine

_REPORT, _PAGE = "report.json", "report.html"


@dataclass(frozen=True)
class Result:
    """``path``: the folder, or file, that was written; ``out``: the folder with the report of how that came about.

    ``exit_code``: what the command line ends with: 0, or 3 to 5 where a limit that was asked for was missed.
    """

    kind: ClassVar[str] = "result"

    path: Path
    out: Path
    record: Any = field(repr=False)
    exit_code: int = field(default=0, kw_only=True)

    @property
    def verdict(self) -> str:
        """``pass``, or ``fail`` where a limit that was asked for was missed; the report says which. Empty without a report."""
        return str(getattr(self.record, "verdict", ""))

    def report(self) -> Path:
        """The page of the report, drawn where it is not there yet. Raises UsageError where nothing was measured."""
        from mmedge.report.html import write_html

        if self.record is None:
            raise UsageError("there is no report", where=str(self.out), todo="give data, and it is measured")
        page = self.out / _PAGE
        if not page.is_file():
            write_html(self.record, page, self.out / ".work" / "pictures")
        return page

    def save(self, path: str | Path) -> Path:
        """Copy what was written, and nothing else, to ``path``, which must not be there yet; returns it."""
        target = Path(path).expanduser()
        if target.exists():
            raise UsageError("there is something already", where=str(target), todo="name another path")
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copytree(self.path, target) if self.path.is_dir() else shutil.copyfile(self.path, target))

    def _rows(self) -> list[tuple[str, str]]:
        """(what, its figure) for people."""
        return []

    def _candidates(self) -> list[Point]:
        """What was tried and measured on the way."""
        return []

    def __repr__(self) -> str:
        rows = [*self._rows(), *candidates.rows(self._candidates())]
        wide = max((len(name) for name, _ in rows), default=0)
        lines = [f"mmedge {self.kind}: {self.path}", *(f"  {name:<{wide}}  {value}" for name, value in rows)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        found = self._candidates()
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in [*self._rows(), *candidates.rows(found)]
        )
        return (
            f"<b>mmedge {html.escape(self.kind)}</b> <code>{html.escape(str(self.path))}</code><table>{cells}</table>"
            f"{candidates.picture(found, self.record)}"
        )


def figure_rows(stage: StageRecord) -> list[tuple[str, str]]:
    """A stage's figures for people: quality on the test split, size, speed, and what was decided."""
    rows = []
    if (quality := stage.quality) is not None:
        low_high = f" [{quality.ci95[0]:.3f}, {quality.ci95[1]:.3f}]" if quality.ci95 else ""
        rows.append((quality.metric, f"{quality.value:.3f}{low_high}, {quality.n} test samples"))
    for name, count in (
        ("parameters", stage.params),
        ("multiply-accumulates", stage.macs),
        ("bytes", stage.size_bytes),
    ):
        if count is not None:
            rows.append((name, f"{count:,}"))
    if (latency := stage.latency) is not None:
        ratio = "" if latency.ratio_to_teacher is None else f", {latency.ratio_to_teacher:.2f} x the first model's"
        rows.append(("latency p50", f"{latency.p50_ms:.3f} ms on {latency.target}{ratio}"))
    if stage.precision:
        rows.append(("precision", stage.precision))
    if stage.decision is not None:
        rows.append(("decision", stage.decision.said))
    for gate in stage.gates:
        if not gate.passed:
            value = "not measured" if gate.value is None else f"{gate.value:.4g}"
            outcome = "cannot tell" if gate.outcome == "cannot tell" else "FAILED"
            rows.append((outcome, f"{gate.name}: {value}, limit {gate.limit:g}"))
    return rows


@dataclass(frozen=True, repr=False)
class Model(Result):
    """A network that a stage made, or found no better than what it was given: an artifact's folder, with ``model.onnx``.

    It is what the next function takes; the data that it came of goes along. ``recipe``, ``code``: what made it.
    """

    kind = "model"

    recipe: Recipe | None = field(default=None, repr=False)
    code: Path = field(default=Path(), repr=False)
    keeps: Any = field(default=None, repr=False)

    @property
    def figures(self) -> StageRecord:
        """What was measured of it: quality with its interval, subsets, parameters, latency, and how it was chosen."""
        stages = self.record.stages if self.record else []
        own = [stage for stage in stages if stage.artifact and (self.out / stage.artifact).samefile(self.path)]
        if not own:
            raise UsageError(
                "no report has figures of this model", where=str(self.path), todo="mmedge.profile times it"
            )
        return own[-1]

    @property
    def onnx(self) -> Path:
        """Its graph, verified against the network: what every runtime takes, and what needs no code to be loaded."""
        return self.path / "model.onnx"

    @property
    def module(self) -> Any:
        """The network as an ``nn.Module`` in evaluation mode, on the CPU: the caller's own class, narrowed where it was pruned.

        Built anew at each access. Raises UsageError where the network was given as an object in another process.
        """
        import torch

        from mmedge import artifact
        from mmedge.models import load
        from mmedge.models.heads import Rescale, Wrapped
        from mmedge.recipe import Model as Section
        from mmedge.recipe.code import load_attribute

        found = artifact.read(self.path)
        section = Section.model_validate(found.meta.get("model") or {})
        factory = load_attribute(section.factory, self.code) if section.factory else None
        with torch.inference_mode(False), torch.enable_grad():  # what was pruned is traced by its gradients
            module = load.rebuild(found, factory)
        scaled = any(isinstance(part, Rescale) for part in module.modules())
        return module.inner if isinstance(module, Wrapped) and not scaled else module

    @classmethod
    def load(cls, path: str | Path, factory: Callable[..., Any] | None = None) -> Model:
        """A model that an earlier process saved: the folder of an artifact.

        ``factory``: what builds the network, with the shapes that it had before it was pruned, where it was given as an
        object; networks that were named as ``module:factory`` need none.
        """
        from mmedge import artifact
        from mmedge import recipe as recipes
        from mmedge.api.networks import holder
        from mmedge.recipe.objects import hold_as, is_object
        from mmedge.report.record import read_report

        folder = Path(path).expanduser()
        found = artifact.read(folder)
        name = (found.meta.get("model") or {}).get("factory")
        keeps = None
        if factory is not None and name and is_object(name):
            keeps = holder(factory)
            hold_as(name, keeps)
        values, code = recipes.recall(found.meta.get("recipe", {}), folder.resolve().parent / ".work")
        recipe = recipes.parse(values, where=folder / artifact.MANIFEST)
        report = folder.parent / _REPORT
        record = read_report(report) if report.is_file() else None
        return cls(folder, folder.parent, record, recipe, code, keeps)

    def _rows(self) -> list[tuple[str, str]]:
        return figure_rows(self.figures) if self.record else []

    def _candidates(self) -> list[Point]:
        return candidates.of_report(self.record, self.figures.stage) if self.record else []


@dataclass(frozen=True, repr=False)
class QuantizedFile(Result):
    """An ONNX file in the precision that was kept, ``onnx``, beside every other that was tried and kept."""

    kind = "quantized file"

    @property
    def onnx(self) -> Path:
        """The graph that was kept."""
        return self.path / "model.onnx"

    @property
    def figures(self) -> FileReport:
        """Every candidate with its score, drop, latency and size, and what was kept."""
        found: FileReport = self.record
        return found

    def _rows(self) -> list[tuple[str, str]]:
        from mmedge.report.schema import UnmadeRecord

        unmade = [row for row in self.figures.candidates if isinstance(row, UnmadeRecord)]
        return [("judged by", self.figures.judged_by), *((row.precision, row.why) for row in unmade)]

    def _candidates(self) -> list[Point]:
        return candidates.of_file(self.figures)


@dataclass(frozen=True, repr=False)
class Bundle(Result):
    """What ships: engines, preprocessing, labels and figures in one folder, which ``mmedge.load`` opens anywhere."""

    kind = "bundle"

    @property
    def figures(self) -> dict[str, StageRecord]:
        """{backend: what was measured of its engine}; empty where there was no data to measure on."""
        prefix = "export-"
        return {
            stage.stage.removeprefix(prefix): stage
            for stage in (self.record.stages if self.record else ())
            if stage.stage.startswith(prefix) and stage.artifact
        }

    def load(self, target: str | None = None, threads: int = 1) -> Engine:
        """The engine of a backend, as ``mmedge.load``."""
        from mmedge.runtime.engine import load

        return load(self.path, target, threads)

    def card(self, license: str | None = None, repository: str = "") -> Path:
        """Write a model card into the bundle, ``README.md`` with the Hub's metadata, of the report; returns it.

        ``license``: its identifier, as ``apache-2.0``; none is claimed where it is not given.
        """
        from mmedge import artifact
        from mmedge.report.model_card import write_card

        return write_card(artifact.read(self.path), self.record, license, repository)

    def push_to_hub(
        self, repository: str, *, license: str | None = None, private: bool = True, update: bool = False
    ) -> str:
        """Upload the bundle with its card to ``repository``, ``owner/name``, on the Hugging Face Hub; returns its address.

        The token is that of ``HF_TOKEN`` or ``hf auth login``. ``update``: a repository that is there already gets a
        commit. Raises UsageError for a name that is none or taken, and without a token; MissingDependency, MmedgeError.
        """
        from mmedge.hub import check_repository, push

        check_repository(repository)
        self.card(license, repository)
        return push(self.path, repository, private=private, update=update)

    def _rows(self) -> list[tuple[str, str]]:
        from mmedge import artifact

        found = artifact.read(self.path)
        rows = []
        figures = self.figures
        for name, entry in found.meta["targets"].items():
            rows.append((name, entry["precision"]))
            rows += [(f"  {what}", value) for what, value in (figure_rows(figures[name]) if name in figures else ())]
        return rows


@dataclass(frozen=True, repr=False)
class Run(Result):
    """A whole run of a recipe: every stage, and the bundle."""

    kind = "run"

    recipe: Recipe | None = field(default=None, repr=False)
    code: Path = field(default=Path(), repr=False)
    keeps: Any = field(default=None, repr=False)

    @property
    def figures(self) -> Report:
        """The whole report."""
        found: Report = self.record
        return found

    @property
    def bundle(self) -> Bundle:
        """What ships."""
        return Bundle(self.path / "bundle", self.out, self.record)

    def model(self, stage: str) -> Model:
        """What a stage made, ``distill`` say, to go on from."""
        known = [each.stage for each in self.figures.stages if each.artifact]
        if stage not in known:
            raise UsageError(f"the run has no stage {stage!r}; it has {', '.join(known)}", where=str(self.path))
        return Model(self.path / stage, self.out, self.record, self.recipe, self.code, self.keeps)

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("verdict", self.verdict)]
        for stage in self.figures.stages:
            figures = dict(figure_rows(stage))
            metric = stage.quality.metric if stage.quality else ""
            kept = [figures[name] for name in (metric, "latency p50", "precision") if name in figures]
            rows.append((stage.stage, "; ".join(kept) or stage.status))
        return rows

    def _candidates(self) -> list[Point]:
        return candidates.of_report(self.figures)


@dataclass(frozen=True, repr=False)
class Profile(Result):
    """What models cost on this machine, or on a device."""

    kind = "profile"

    @property
    def figures(self) -> ProfileRecord:
        """Percentiles, loading, memory, energy and layers of each model, and ratios between them."""
        found: ProfileRecord = self.record
        return found

    def report(self) -> Path:
        """The profile as JSON, with its pictures beside it."""
        from mmedge.report.profile_plots import write_plots

        write_plots(self.figures, self.out)
        return self.path

    def _rows(self) -> list[tuple[str, str]]:
        return [
            (
                f"{model.name}, batch {batch.batch}",
                f"p50 {batch.compute.p50_ms:.3f} ms, p95 {batch.compute.p95_ms:.3f} ms",
            )
            for model in self.figures.models
            for batch in model.batches
        ]
