"""``--devices N``: the same command in N processes that train together, each on a GPU of its own, or on the CPU."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

import click

from mmedge.cli.common import document
from mmedge.errors import Interrupted, MissingDependency, PeerEnded
from mmedge.training.loop.processes import LAUNCHER

devices_option = click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    help="Train with so many processes, one a GPU (without a GPU, on the CPU); each takes its part of every batch.",
)
# How long the main process may take to end by itself after another one failed, in seconds.
_GRACE = 10.0


def launch(devices: int) -> int:
    """Run this very command in ``devices`` processes; returns the exit code of the first that failed, or 0.

    The main one shows progress, prints and writes. What another one says is shown where that one failed by itself.
    An interrupt goes to the main process, which saves nothing that it has not saved before and ends the others with it.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise MissingDependency(
            "--devices needs accelerate, which is not installed", todo="pip install 'mmedge[toolchain]'"
        )
    port = _free_port()
    with ExitStack() as opened:
        interrupts = opened.enter_context(_counted(signal.SIGINT))
        texts = [opened.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(devices)]
        children: list[subprocess.Popen[bytes]] = []
        try:  # from the first start on: whatever happens, nothing of ours goes on without us
            for rank, text in enumerate(texts):
                children.append(_started(rank, devices, port, text))
            return _ended(children, texts, interrupts)
        finally:
            _end(children)


@contextmanager
def _counted(number: signal.Signals) -> Iterator[list[int]]:
    """The signals of this number that have come so far: an exception could fall between a child's end and our note of it."""
    came: list[int] = []
    before = signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield came
    finally:
        signal.signal(number, before)


def _started(rank: int, devices: int, port: int, text: IO[str]) -> subprocess.Popen[bytes]:
    from mmedge.machine import cores

    threads = max(1, cores() // devices)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # a hint on speed, from every process
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        LAUNCHER: str(os.getpid()),
    }
    # A session of its own: a terminal's Ctrl-C reaches the launcher alone, which hands it on once.
    return subprocess.Popen(
        [sys.executable, "-m", "mmedge", *sys.argv[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=_stdout() if rank == 0 else subprocess.DEVNULL,
        stderr=None if rank == 0 else text,
        start_new_session=True,
    )


def _stdout() -> int | None:
    """The stream that the main process writes its document to; None where that is no file."""
    try:
        return int(document().fileno())
    except (OSError, ValueError):
        return None


def _ended(children: list[subprocess.Popen[bytes]], texts: Sequence[IO[str]], interrupts: Sequence[int]) -> int:
    """Wait for all to end, or for one to fail; an interrupt goes to the main process, however it then ends."""
    failed: float | None = None
    handed_on = 0
    while True:
        if handed_on < len(interrupts):
            handed_on = len(interrupts)
            children[0].send_signal(signal.SIGINT)
        codes = [child.poll() for child in children]
        if handed_on and codes[0]:
            if codes[0] != Interrupted.exit_code:  # a library made another error of it, or it had no handler yet
                raise Interrupted("interrupted; the state is saved", todo="run the same command again to go on")
            return codes[0]
        own = [rank for rank, code in enumerate(codes) if code not in (None, 0, PeerEnded.exit_code)]
        if codes[0] not in (None, 0, PeerEnded.exit_code) or all(code == 0 for code in codes):
            return _as_exit_code(codes[0] or 0)
        failed = failed or (time.monotonic() if any(codes) and not handed_on else None)
        if failed and (codes[0] is not None or time.monotonic() - failed > _GRACE):
            rank = own[0] if own else next(rank for rank, code in enumerate(codes) if code)
            texts[rank].seek(0)
            click.echo(f"process {rank}: {texts[rank].read().strip()[-2000:]}", err=True)
            return _as_exit_code(codes[rank] or 1)
        time.sleep(0.1)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        try:
            child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _as_exit_code(code: int) -> int:
    """A child's return code as an exit code; one that a signal ended, or that lost the others, is an error."""
    return 1 if code < 0 or code == PeerEnded.exit_code else code


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
