"""Profiling over SSH, against a real sshd on loopback that the test starts itself."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import mmedge
from mmedge import bundle as bundles
from mmedge.errors import MissingDependency, MmedgeError, UsageError
from mmedge.profiling import remote
from mmedge.profiling.profile import ProfileOptions

QUICK = ProfileOptions(runs=20, idle_s=0.0, seconds=0.05)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """A user's sshd with keys of its own: (port, options of ssh that reach it)."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).is_file():
        got = subprocess.run(
            ["apt-get", "install", "-y", "--no-install-recommends", "openssh-server"], capture_output=True
        )
        if got.returncode or not Path(program).is_file():
            pytest.skip("openssh-server is not installed and cannot be installed here")
    folder = tmp_path_factory.mktemp("sshd")
    (folder / "home").mkdir()
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "authorized").chmod(0o600)
    Path("/run/sshd").mkdir(exist_ok=True) if getpass.getuser() == "root" else None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [
        f"HostKey={folder / 'host'}",
        f"AuthorizedKeysFile={folder / 'authorized'}",
        "StrictModes=no",
        "UsePAM=no",
    ]
    settings += [
        f"Port={port}",
        "ListenAddress=127.0.0.1",
        f"PidFile={folder / 'pid'}",
        "PasswordAuthentication=no",
        "PermitRootLogin=yes",
        f"SetEnv=HOME={folder / 'home'}",  # what the device keeps is nobody else's
    ]
    command = [program, "-D", "-e", "-f", "/dev/null", *(word for line in settings for word in ("-o", line))]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            else:
                pytest.fail(f"sshd does not start: {(folder / 'log').read_text()}")
            known = [
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                f"UserKnownHostsFile={folder / 'known'}",
                "-o",
                "IdentitiesOnly=yes",
            ]
            yield port, folder, known
        finally:
            server.terminate()
            server.wait(10)


@pytest.fixture
def cache(sshd):
    """Where the device keeps what was copied to it."""
    return sshd[1] / "home/.cache/mmedge"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """This test's own folder of temporary files: other processes of mmedge write to the machine's."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def python(tmp_path):
    """The device's Python: it has mmedge, and no torch and no onnx."""
    script = tmp_path / "python"
    root = Path(mmedge.__file__).parent.parent
    script.write_text(f'#!/bin/sh\nexport PYTHONPATH={root} OMP_NUM_THREADS=1\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


def device(sshd, python, *, key="user", target="onnxruntime-cpu"):
    port, folder, known = sshd
    address = f"ssh://{getpass.getuser()}@127.0.0.1:{port}/{target}"
    return remote.device(address, options=[*known, "-i", str(folder / key)], python=python)


@pytest.mark.long
def test_a_bundle_is_profiled_on_the_device_and_nothing_is_left_there(sshd, python, bundle, cache):
    record = remote.measured([bundle], QUICK, device(sshd, python)).record()
    model = record["models"][0]
    assert model["name"] == str(bundle)
    assert model["batches"][0]["compute"]["p50_ms"] > 0
    assert model["batches"][0]["end_to_end"]["p50_ms"] > model["batches"][0]["compute"]["p50_ms"]
    assert record["device"] == {"host": "127.0.0.1", "target": "onnxruntime-cpu"}
    assert not list(cache.glob("*.zip"))
    assert not [line for line in record["warnings"] if ".cache" in line], "a warning names the user's own file"


@pytest.mark.long
def test_a_broken_copy_is_gone_on_with(sshd, python, bundle, cache, tmp_path):
    archive = tmp_path / "b.zip"
    bundles.pack(bundle, archive)
    whole, there = archive.read_bytes(), cache / f"{remote.sha256_of(archive)[:24]}.zip"
    there.parent.mkdir(parents=True, exist_ok=True)
    said = []

    class Progress:
        def step(self, *_):
            pass

        def say(self, line):
            said.append(line)

    try:
        there.write_bytes(whole[: len(whole) // 2])
        remote._copy(archive, f"~/.cache/mmedge/{there.name}", device(sshd, python), Progress())
        assert there.read_bytes() == whole
        assert any("going on" in line for line in said)
        there.write_bytes(b"x" * (len(whole) // 2))  # a beginning that is not this file's
        remote._copy(archive, f"~/.cache/mmedge/{there.name}", device(sshd, python), Progress())
        assert there.read_bytes() == whole
    finally:
        there.unlink(missing_ok=True)


@pytest.fixture
def slow(tmp_path, python):
    """A device's Python that never ends its profile, and the file that it writes when it has begun it."""
    script, begun = tmp_path / "slow", tmp_path / "begun"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *" profile "*) echo $$ > {begun}; exec sleep 300;; *) exec {python} "$@";; esac\n'
    )
    script.chmod(0o755)
    yield str(script), begun
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(begun.read_text()), signal.SIGKILL)


def lost(sshd, slow, bundle, how):
    """Profile, and do ``how`` with the processes of sshd that serve the connection while the profile is running."""
    _, folder, _ = sshd
    python, begun = slow

    def cut():
        for _ in range(600):
            if begun.is_file() and begun.read_text():
                for found in sessions_of(int((folder / "pid").read_text())):
                    os.kill(found, how)
                return
            time.sleep(0.05)

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        with pytest.raises(MmedgeError, match="lost during the profile") as caught:
            remote.measured([bundle], QUICK, device(sshd, python))
    finally:
        cutting.join()
        for found in sessions_of(int((folder / "pid").read_text())):
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.kill(found, signal.SIGKILL)
    assert caught.value.exit_code == 1 and len(str(caught.value).splitlines()) == 3


def sessions_of(server):
    """The processes that an sshd serves its connections with, and their children that are sshd's own."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().partition(") ")
            parents[int(stat.parent.name)] = (int(rest.split()[1]), name)
    mine = [pid for pid, (parent, _) in parents.items() if parent == server]
    return [*mine, *(pid for pid, (parent, name) in parents.items() if parent in mine and "sshd" in name)]


@pytest.mark.long
def test_a_host_that_is_lost_during_the_profile_is_told_and_nothing_is_left(sshd, slow, bundle, cache, temporary):
    lost(sshd, slow, bundle, signal.SIGKILL)
    assert not list(temporary.iterdir())
    assert not list(cache.glob("*.zip"))  # the host was there again for the end


@pytest.mark.slow
def test_a_host_that_falls_silent_is_told_in_seconds(sshd, slow, bundle, temporary):
    lost(sshd, slow, bundle, signal.SIGSTOP)
    assert not list(temporary.iterdir())


@pytest.mark.long
def test_a_copy_that_the_network_breaks_is_gone_on_with_by_the_next_command(sshd, python, bundle, cache, monkeypatch):
    """The device is lost in the middle of the copy: what has come stays, and the next command sends the rest."""
    real, sent = remote._run, []

    def breaks(where, command, what, **more):
        if "sha256sum" in command and not sent:
            sent.append(command)
            raise MmedgeError("the connection to the device was lost during the copy")
        return real(where, command, what, **more)

    monkeypatch.setattr(remote, "_run", breaks)
    with pytest.raises(MmedgeError, match="lost during the copy"):
        remote.measured([bundle], QUICK, device(sshd, python))
    assert len(list(cache.glob("*.zip"))) == 1
    assert remote.measured([bundle], QUICK, device(sshd, python)).models
    assert not list(cache.glob("*.zip"))


def test_a_refused_key_is_told_with_the_command_that_helps(sshd, python, bundle):
    with pytest.raises(MmedgeError, match="refuses the key") as caught:
        remote.measured([bundle], QUICK, device(sshd, python, key="stranger"))
    assert "ssh-copy-id" in str(caught.value)


def test_an_unreachable_host_is_told(python, bundle):
    with pytest.raises(MmedgeError, match="cannot be reached"):
        remote.measured([bundle], QUICK, remote.device("ssh://127.0.0.1:1/onnxruntime-cpu", python=python))


def test_a_device_without_mmedge_is_told_what_to_install(sshd, bundle):
    with pytest.raises(MissingDependency, match="no mmedge") as caught:
        remote.measured([bundle], QUICK, device(sshd, "python-that-is-not-there"))
    assert "pip install mmedge" in str(caught.value)


def test_a_python_of_another_architecture_is_told(sshd, bundle, tmp_path):
    foreign = tmp_path / "python"
    # The header of an ELF program for a processor that nobody has.
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xff\x7f\x01\x00\x00\x00" + bytes(100))
    foreign.chmod(0o755)
    with pytest.raises(MissingDependency):
        remote.measured([bundle], QUICK, device(sshd, str(foreign)))


def test_a_target_that_the_device_cannot_run_is_told_before_anything_is_copied(sshd, python, bundle):
    with pytest.raises(MissingDependency, match="cannot run tensorrt-rtx"):
        remote.measured([bundle], QUICK, device(sshd, python, target="tensorrt-rtx"))
    with pytest.raises(UsageError, match="knows no target"):
        remote.measured([bundle], QUICK, device(sshd, python, target="tensorflow"))


@pytest.mark.parametrize(
    "address",
    [
        "ssh://host",
        "ssh:host/x",
        "ssh://a b/tensorrt",
        "ssh://host:99999/tensorrt",
        "ssh://-oProxyCommand=x/t",
        "ssh://-F/t",
        "ssh://-l@host/t",
        "ssh://a@-F/t",
    ],
)
def test_a_bad_address_is_a_usage_error(address):
    with pytest.raises(UsageError):
        remote.device(address)
