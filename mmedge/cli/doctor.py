"""``mmedge doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mmedge.cli.common import framed, print_json

if TYPE_CHECKING:
    from mmedge.profiling.doctor import DoctorRecord


@click.command(
    help="Tell what this machine can do: processor, GPUs, versions, and for every target what is missing and how to get it."
    "\n\n\b\nExample:\n  mmedge doctor"
)
@framed
def doctor(as_json: bool) -> None:
    from mmedge.profiling.doctor import examine

    record = examine()
    _show(record)
    if as_json:
        print_json(record.record())


def _show(record: DoctorRecord) -> None:
    def say(line: str) -> None:
        click.echo(line, err=True)

    machine = record.machine
    memory = f", {machine.memory_bytes / 1e9:.1f} GB" if machine.memory_bytes else ""
    say(f"machine   {machine.cpu}, {machine.cores} core(s){memory}; {machine.system}, Python {machine.python}")
    if record.jetson:
        say(f"jetson    {record.jetson}")
    say(f"cpu       {' '.join(record.cpu_features) or 'unknown'}")
    say(f"int8      {record.int8}")
    for gpu in record.gpus:
        capability = f", compute capability {gpu.compute_capability}" if gpu.compute_capability else ""
        say(f"gpu       {gpu.name}, driver {gpu.driver}{capability}")
    if not record.gpus:
        say("gpu       none with an NVIDIA driver")
    say(f"energy    processor: {record.energy.cpu}")
    say("packages  " + ", ".join(f"{name} {value}" for name, value in record.packages.items() if value))
    say(f"providers {', '.join(record.providers)}")
    found = [(f"{name:16} {verb:5}", of) for name, each in record.targets.items() for verb, of in each]
    for what, finding in [*found, (f"{'toolchain':22}", record.toolchain)]:
        say(f"{what} {'ready' if finding.ready else 'missing'}")
        for missing in finding.missing:
            say(f"    {missing.what}\n      get: {missing.get}")
