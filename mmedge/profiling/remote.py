"""Profiling on a device by SSH: the system's own OpenSSH with the user's keys and configuration, nothing of ours."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mmedge import bundle as bundles
from mmedge.artifact import sha256_of
from mmedge.errors import MissingDependency, MmedgeError, UsageError
from mmedge.leftovers import scratch
from mmedge.profiling.doctor import DoctorRecord
from mmedge.profiling.profile import ProfileOptions
from mmedge.profiling.record import ProfileRecord, RemoteRecord
from mmedge.progress import Progress, Silent

_ADDRESS = re.compile(
    r"ssh://(?!-)(?:(?P<user>[\w.-]+)@)?(?P<host>(?!-)[\w.-]+|\[[0-9a-fA-F:]+\])(?::(?P<port>\d+))?/(?P<target>[\w-]+)"
)
# A copy, a check, a copy from the beginning where the check failed, another check, and two breaks on the way.
_TRIES = 6


@dataclass(frozen=True)
class Device:
    """``ssh://user@host:port/target``. ``options``: further ones of ssh, as ``-i KEY``. ``python``: the interpreter there."""

    host: str
    target: str
    user: str | None = None
    port: int | None = None
    options: tuple[str, ...] = ()
    python: str = "python3"

    def command(self, remote: str) -> list[str]:
        """The ssh command that runs ``remote`` in the device's shell. It never asks: a question would wait for ever."""
        port = ["-p", str(self.port)] if self.port else []
        name = f"{self.user}@{self.host}" if self.user else self.host
        fixed = [
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            "-o",
            "ServerAliveInterval=5",
            "-o",
            "ServerAliveCountMax=3",
        ]
        return ["ssh", *fixed, *self.options, *port, name, remote]


def device(address: str, *, options: Sequence[str] = (), python: str = "python3") -> Device:
    """Parse an address. Raises UsageError with the form that is wanted."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise UsageError(
            f"the address cannot be read: {address!r}",
            todo="write ssh://user@host:port/TARGET, as ssh://pi@10.0.0.7/onnxruntime-cpu",
        )
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 65536:
        raise UsageError(f"there is no port {port}", todo="ports go from 1 to 65535")
    return Device(found["host"].strip("[]"), found["target"], found["user"], port, tuple(options), python)


def measured(
    paths: Sequence[Path], settings: ProfileOptions, where: Device, progress: Progress | None = None
) -> ProfileRecord:
    """Profile models on a device: copy them, run ``python -m mmedge.profiling profile`` there, bring the record back, clean up.

    A copy that breaks off is gone on with where it stopped, by this command or the next. Raises MmedgeError with what
    failed: the host, the key, the package, the profile itself (with its own exit code).
    """
    if shutil.which("ssh") is None:
        raise MissingDependency("profiling on a device needs OpenSSH", todo="sudo apt-get install openssh-client")
    progress = progress or Silent()
    progress.say(f"profile: looking at {where.host}")
    _check_device(where)
    with scratch() as folder:
        files = [_as_file(path, number, folder) for number, path in enumerate(paths)]
        # By content: what a broken command left there is gone on with by the next one.
        names = {file: f"{sha256_of(file)[:24]}{file.suffix}" for file in files}
        home = "~/.cache/mmedge"
        for file in files:
            _copy(file, f"{home}/{names[file]}", where, progress)
        try:
            progress.say(f"profile: measuring on {where.host}")
            done = _run(
                where,
                _profile_command(where, settings, [f"{home}/{name}" for name in names.values()]),
                "the profile on the device",
            )
        finally:
            removed = " ".join(f"{home}/{name}" for name in names.values())
            subprocess.run(where.command(f"rm -f {removed}; rmdir {home} 2>/dev/null"), capture_output=True)
    try:
        record = ProfileRecord.model_validate_json(done.stdout)
    except ValidationError as error:
        raise _foreign("profile", where) from error
    warnings = record.warnings
    for model, path in zip(record.models, paths):
        warnings = [line.replace(model.name, str(path)) for line in warnings]
    models = [model.model_copy(update={"name": str(path)}) for model, path in zip(record.models, paths)]
    device = RemoteRecord(host=where.host, target=where.target)
    return record.model_copy(update={"models": models, "warnings": warnings, "device": device})


def _foreign(what: str, where: Device) -> MmedgeError:
    todo = "install the same version of mmedge there"
    return MmedgeError(f"what the device writes is no {what}", where=where.host, todo=todo)


def _as_file(path: Path, number: int, folder: Path) -> Path:
    """A bundle goes as one zip file; an ONNX file as it is, another artifact as its graph."""
    if path.is_dir():
        found = bundles.read(path, any_stage=True).artifact
        if found.stage != "bundle":
            return found.file("model.onnx")
        bundles.pack(path, folder / f"{number}.zip")
        return folder / f"{number}.zip"
    if not path.is_file():
        raise MmedgeError("there is no such model", where=str(path), todo="name a bundle, an artifact or an ONNX file")
    return path


def _check_device(where: Device) -> None:
    """The device answers, and has mmedge with the target's packages."""
    done = _run(where, f"{shlex.quote(where.python)} -m mmedge.profiling doctor", "mmedge on the device", missing=True)
    try:
        record = DoctorRecord.model_validate_json(done.stdout)
    except ValidationError as error:
        raise _foreign("finding of mmedge doctor", where) from error
    target = record.targets.get(where.target)
    if target is None:
        raise UsageError(
            f"the device knows no target {where.target!r}; it knows {', '.join(record.targets)}", where=where.host
        )
    if not target.run.ready:
        missing = target.run.missing[0]
        raise MissingDependency(
            f"the device cannot run {where.target}: {missing.what} is missing ({record.machine.system})",
            where=where.host,
            todo=f"there: {missing.get}",
        )


def _copy(file: Path, remote: str, where: Device, progress: Progress) -> None:
    """Copy by appending to what is there already; checked by sha256 at the end."""
    size = file.stat().st_size
    for _ in range(_TRIES):
        have = int(_run(where, f"mkdir -p ~/.cache/mmedge && touch {remote} && wc -c < {remote}", "the copy").stdout)
        if have > size:  # no part of this file
            _run(where, f"rm -f {remote}", "the copy")
            continue
        if have < size:
            progress.say(
                f"profile: copying {(size - have) / 1e6:.1f} MB to {where.host}" + (" (going on)" if have else "")
            )
            with file.open("rb") as stream:
                stream.seek(have)
                subprocess.run(where.command(f"cat >> {remote}"), stdin=stream, capture_output=True)
            continue
        there = _run(where, f"sha256sum {remote}", "the copy").stdout.split()[0]
        if there == sha256_of(file):
            return
        _run(where, f"rm -f {remote}", "the copy")
    _run(where, f"rm -f {remote}", "the copy")
    raise MmedgeError(
        f"{file.name} could not be copied to the device",
        where=where.host,
        todo="look at its free space and the connection",
    )


def _profile_command(where: Device, settings: ProfileOptions, remote: list[str]) -> str:
    words = [where.python, "-m", "mmedge.profiling", "profile", "--target", where.target]
    words += [
        "--threads",
        str(settings.threads),
        "--runs",
        str(settings.runs),
        "--idle",
        str(settings.idle_s),
        "--seconds",
        str(settings.seconds),
    ]
    words += [word for batch in settings.batches for word in ("--batch", str(batch))]
    words += [
        word for name, shape in settings.shapes.items() for word in ("--shape", f"{name}={','.join(map(str, shape))}")
    ]
    # The paths are ours (a hash) and stay unquoted, so that the shell there puts its home in.
    return " ".join([*map(shlex.quote, words), *remote])


def _run(where: Device, remote: str, what: str, *, missing: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command on the device. ``missing``: it is the first, which finds out whether the device and mmedge are there."""
    done = subprocess.run(where.command(remote), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return done
    errors = done.stderr.strip()
    last = errors.splitlines()[-1] if errors else f"exit code {done.returncode}"
    if done.returncode == 255:
        if not missing:
            raise MmedgeError(
                f"the connection to the device was lost during {what}: {last}",
                where=where.host,
                todo="look at the network and the device's power, and run the same command again",
            )
        raise _connection_error(where, errors, last)
    if "Exec format error" in errors:
        raise MissingDependency(
            f"{where.python} on the device is of another architecture",
            where=where.host,
            todo="name one that runs there with --python",
        )
    if missing and ("No module named" in errors or done.returncode in (126, 127)):
        raise MissingDependency(
            f"the device has no mmedge in {where.python}: {last}",
            where=where.host,
            todo="there: pip install mmedge (the base install is enough)",
        )
    line = next((line.removeprefix("error: ") for line in errors.splitlines() if line.startswith("error: ")), last)
    failed = MmedgeError(f"{what} failed: {line}", where=where.host)
    failed.exit_code = done.returncode if done.returncode in (2, 5, 6) else 1
    raise failed


def _connection_error(where: Device, errors: str, last: str) -> MmedgeError:
    if "Permission denied" in errors:
        return MmedgeError(
            "the device refuses the key",
            where=where.host,
            todo=f"ssh-copy-id {where.user + '@' if where.user else ''}{where.host}",
        )
    if "Host key verification failed" in errors or "REMOTE HOST IDENTIFICATION" in errors:
        return MmedgeError(
            "the device's own key is not known, or has changed",
            where=where.host,
            todo=f"ssh {where.host} once, and compare the fingerprint",
        )
    return MmedgeError(
        f"the device cannot be reached: {last}", where=where.host, todo="look at its name, its port and the network"
    )
