"""A profile's record as tables on the terminal (stderr)."""

from __future__ import annotations

from typing import Any

from mmedge.report.table import console_for

_LAYERS_SHOWN = 8


def print_profile(record: dict[str, Any]) -> None:
    """Latency by model and batch, then what was measured once a model, the costliest layers, and the warnings."""
    from rich.table import Table
    from rich.text import Text

    machine = record["machine"]
    table = Table(title=f"{machine['cpu']}, {record['settings']['threads']} thread(s); milliseconds")
    for heading in ("model", "batch", "what", "p50", "p95", "p99", "p99.9", "mean", "cv", "of 1"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, model in enumerate(record["models"], 1):
        for entry in model["batches"]:
            for what in ("compute", "end_to_end"):
                timing = entry[what]
                if "not_available" in timing:
                    continue
                ratio = entry.get("ratio_to_first") if what == "compute" else None
                table.add_row(
                    str(number),
                    str(entry["batch"]),
                    "end to end" if what == "end_to_end" else what,
                    *(f"{timing[name]:.3f}" for name in ("p50_ms", "p95_ms", "p99_ms", "p99_9_ms", "mean_ms")),
                    f"{timing['cv']:.2f}",
                    f"{ratio['value']:.3f}" if ratio else "",
                )
    console, _ = console_for(table)
    console.print(table)
    for number, model in enumerate(record["models"], 1):
        console.print(f"{number}: {model['name']} ({model['target']}, {model['size_bytes'] / 1000:,.0f} kB)")
        for line in _once(model):
            console.print(f"  {line}")
    for warning in record["warnings"]:
        console.print(Text.assemble(("warning:", "yellow"), f" {warning}"))


def _once(model: dict[str, Any]) -> list[str]:
    """What is measured once a model."""
    memory, energy = model["memory"], model["energy"]
    lines = [
        f"load {_figure(model['load_ms'], 'ms')}, first inference {_figure(model['first_inference_ms'], 'ms')}, after idle {_figure(model['after_idle_ms'], 'ms')}",
        "peak memory "
        + (
            f"{memory['host_peak_bytes'] / 1e6:.0f} MB ({memory['host_before_load_bytes'] / 1e6:.0f} MB before loading)"
            if "host_peak_bytes" in memory
            else f"not available: {memory['not_available']}"
        ),
        "energy "
        + (
            f"{energy['mj_per_inference']:.3g} mJ an inference at {energy['mean_watts']:.1f} W ({energy['source']})"
            if "source" in energy
            else f"not available: {energy['not_available']}"
        ),
        "throughput "
        + ", ".join(f"{row['samples_per_s']:,.0f}/s with {row['streams']} stream(s)" for row in model["throughput"]),
    ]
    for entry in model["batches"]:
        if "parts_ms" in entry:
            parts = ", ".join(f"{name.replace('_', ' ')} {value:.3f} ms" for name, value in entry["parts_ms"].items())
            lines.append(f"batch {entry['batch']}: {parts}")
        if "ratio_to_first" in entry:
            low, high = entry["ratio_to_first"]["ci95"]
            lines.append(
                f"batch {entry['batch']}: {entry['ratio_to_first']['value']:.3f} x the latency of 1, 95 % interval {low:.3f} to {high:.3f}"
            )
    if "branches" in model:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in model["branches"].items())
        lines.append(f"branches {shares} ({model['layers_basis']})")
        for layer in sorted(model["layers"], key=lambda layer: -layer["share"])[:_LAYERS_SHOWN]:
            lines.append(f"  {layer['share']:6.1%}  {layer['branch']:10} {layer['kind']:14} {layer['name']}")
    else:
        lines.append(f"layers not available: {model['layers']['not_available']}")
    return lines


def _figure(value: Any, unit: str) -> str:
    return f"not available: {value['not_available']}" if isinstance(value, dict) else f"{value:.3g} {unit}"
