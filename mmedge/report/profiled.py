"""A profile's record as tables on the terminal (stderr)."""

from __future__ import annotations

from mmedge.profiling.record import ModelRecord, NotAvailable, ProfileRecord
from mmedge.profiling.timing import Timing
from mmedge.report.table import console_for

_LAYERS_SHOWN = 8


def print_profile(profile: ProfileRecord) -> None:
    """Latency by model and batch, then what was measured once a model, the costliest layers, and the warnings."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{profile.machine.cpu}, {profile.settings.threads} thread(s); milliseconds")
    for heading in ("model", "batch", "what", "p50", "p95", "p99", "p99.9", "mean", "cv", "of 1"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, model in enumerate(profile.models, 1):
        for entry in model.batches:
            ratio = f"{entry.ratio_to_first.value:.3f}" if entry.ratio_to_first else ""
            for what, timing, of_first in (("compute", entry.compute, ratio), ("end to end", entry.end_to_end, "")):
                if isinstance(timing, Timing):
                    table.add_row(str(number), str(entry.batch), what, *_cells(timing), of_first)
    console, _ = console_for(table)
    console.print(table)
    for number, model in enumerate(profile.models, 1):
        console.print(f"{number}: {model.name} ({model.target}, {model.size_bytes / 1000:,.0f} kB)")
        for line in _once(model):
            console.print(f"  {line}")
    for warning in profile.warnings:
        console.print(Text.assemble(("warning:", "yellow"), f" {warning}"))


def _cells(timing: Timing) -> list[str]:
    spans = (timing.p50_ms, timing.p95_ms, timing.p99_ms, timing.p99_9_ms, timing.mean_ms)
    return [*(f"{span:.3f}" for span in spans), f"{timing.cv:.2f}"]


def _once(model: ModelRecord) -> list[str]:
    """What is measured once a model."""
    memory, energy = model.memory, model.energy
    peak, before = memory.host_peak_bytes, memory.host_before_load_bytes
    lines = [
        f"load {_figure(model.load_ms)}, first inference {_figure(model.first_inference_ms)}, after idle {_figure(model.after_idle_ms)}",
        f"peak memory not available: {memory.not_available}"
        if peak is None or before is None
        else f"peak memory {peak / 1e6:.0f} MB ({before / 1e6:.0f} MB before loading)",
        f"energy not available: {energy.not_available}"
        if isinstance(energy, NotAvailable)
        else f"energy {energy.mj_per_inference:.3g} mJ an inference at {energy.mean_watts:.1f} W ({energy.source})",
        "throughput "
        + ", ".join(f"{row.samples_per_s:,.0f}/s with {row.streams} stream(s)" for row in model.throughput),
    ]
    for entry in model.batches:
        if entry.parts_ms is not None:
            parts = ", ".join(f"{name.replace('_', ' ')} {value:.3f} ms" for name, value in entry.parts_ms.items())
            lines.append(f"batch {entry.batch}: {parts}")
        if ratio := entry.ratio_to_first:
            low, high = ratio.ci95
            lines.append(
                f"batch {entry.batch}: {ratio.value:.3f} x the latency of 1, 95 % interval {low:.3f} to {high:.3f}"
            )
    if isinstance(model.layers, NotAvailable):
        return [*lines, f"layers not available: {model.layers.not_available}"]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in (model.branches or {}).items())
    lines.append(f"branches {shares} ({model.layers_basis})")
    for layer in sorted(model.layers, key=lambda layer: -layer.share)[:_LAYERS_SHOWN]:
        lines.append(f"  {layer.share:6.1%}  {layer.branch:10} {layer.kind:14} {layer.name}")
    return lines


def _figure(value: float | NotAvailable) -> str:
    return f"not available: {value.not_available}" if isinstance(value, NotAvailable) else f"{value:.3g} ms"
