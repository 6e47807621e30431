"""Encrypted bundles: opened with their key, in memory alone; without it, cut short or changed, one sentence."""

import io
import os
import subprocess
import sys

import pytest

from mmedge import bundle as bundles
from mmedge import encryption, runtime
from mmedge.errors import MissingDependency, MmedgeError, UsageError
from tests.conftest import child_environment
from tests.test_bundle import keys  # noqa: F401  # a fixture

KEY, OTHER = bytes(range(32)), bytes(32)


@pytest.fixture
def sealed(bundle, tmp_path):
    bundles.encrypt(bundle, tmp_path / "bundle.enc", KEY)
    return tmp_path / "bundle.enc"


def test_an_encrypted_bundle_predicts_as_the_bundle_does(bundle, sealed, sample):
    plain, opened = runtime.load(bundle), runtime.load(sealed, key=KEY)
    assert opened.predict(**sample).probabilities == plain.predict(**sample).probabilities
    assert (
        opened.predict(image=sample["image"]).label == plain.predict(image=sample["image"]).label
    )  # a subset's engine


def test_nothing_of_it_can_be_read_without_the_key(bundle, sealed):
    content = sealed.read_bytes()
    for file in (bundle / "model.onnx", bundle / "manifest.json"):
        assert file.read_bytes()[:64] not in content
    again = sealed.with_name("again.enc")
    bundles.encrypt(bundle, again, KEY)
    assert again.read_bytes()[60:] != content[60:]  # another salt, another key


def test_nothing_decrypted_is_written_to_a_disk(bundle, sealed, tmp_path):
    """Every file that the process opens to write, from before the first import on, lies in memory; none is left."""
    code = """
import os, sys
written = []
def look(event, told):
    if event == "open" and isinstance(told[0], (str, bytes)) and told[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append(os.fsdecode(told[0]))
sys.addaudithook(look)
from mmedge import runtime
engine = runtime.load(sys.argv[1], key=bytes(range(32)))
import numpy as np
engine.predict(vitals=np.zeros(3, np.float32))
found = [name for name in written if name != os.devnull and not name.endswith(".pyc") and ".pyc." not in name]
assert any(name.startswith("/dev/shm/") and name.endswith("model.onnx") for name in found), found
print([name for name in found if not name.startswith("/dev/shm/")])
"""
    environment = child_environment() | {"TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    before = {name for name in os.listdir("/dev/shm") if name.startswith("mmedge-")}
    said = subprocess.run([sys.executable, "-c", code, sealed], env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "[]"
    plain = [file.read_bytes()[:64] for file in bundle.rglob("*") if file.is_file()]
    for file in (tmp_path / "temporary").rglob("*"):  # ONNX Runtime keeps the number of its session there
        assert file.stat().st_size < 200 and not any(part in file.read_bytes() for part in plain)
    assert {name for name in os.listdir("/dev/shm") if name.startswith("mmedge-")} <= before


def test_the_wrong_key_a_cut_or_a_changed_file_is_one_sentence(sealed):
    content = sealed.read_bytes()
    with pytest.raises(MmedgeError, match="the key is not the one"):
        runtime.load(sealed, key=OTHER)
    for end in (len(encryption.MAGIC), len(encryption.MAGIC) + 10, len(content) // 2, len(content) - 1):
        sealed.write_bytes(content[:end])
        with pytest.raises(MmedgeError, match="cannot be decrypted") as told:
            runtime.load(sealed, key=KEY)
        assert str(sealed) in str(told.value) and len(str(told.value).splitlines()) <= 3
    for place in (len(encryption.MAGIC) + 3, len(content) // 2, len(content) - 1):
        sealed.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(MmedgeError, match="cannot be decrypted"):
            runtime.load(sealed, key=KEY)


def test_chunks_of_a_long_file_cannot_be_left_out_moved_or_added(tmp_path, monkeypatch):
    monkeypatch.setattr(encryption, "_CHUNK", 100)
    for size in (0, 1, 99, 100, 101, 350):
        plain, out = os.urandom(size), io.BytesIO()
        encryption.encrypt(io.BytesIO(plain), out, KEY)
        (tmp_path / "f").write_bytes(out.getvalue())
        assert encryption.decrypt(tmp_path / "f", KEY).read() == plain
    head, step = len(encryption.MAGIC) + 32, 116
    whole = out.getvalue()
    chunks = [whole[head + k * step : head + (k + 1) * step] for k in range(4)]
    for wrong in (
        chunks[:3],
        chunks[1:],
        [chunks[1], chunks[0], *chunks[2:]],
        [*chunks, chunks[3]],
        chunks[:2] + chunks[3:],
    ):
        (tmp_path / "f").write_bytes(whole[:head] + b"".join(wrong))
        with pytest.raises(MmedgeError, match="cannot be decrypted"):
            encryption.decrypt(tmp_path / "f", KEY)


def test_a_bundle_may_be_signed_and_encrypted(bundle, keys, tmp_path, sample):  # noqa: F811
    ((private, public), (_, stranger)), sealed = keys, tmp_path / "s.enc"
    bundles.encrypt(bundle, sealed, KEY)
    with pytest.raises(MmedgeError, match="is not signed"):
        runtime.load(sealed, key=KEY, require_signature=public)
    bundles.sign(bundle, private)
    bundles.encrypt(bundle, sealed, KEY)
    assert runtime.load(sealed, key=KEY, require_signature=public).predict(**sample).label
    with pytest.raises(MmedgeError, match="not by the key"):
        runtime.load(sealed, key=KEY, require_signature=stranger)


def test_a_key_is_wanted_where_there_is_one_and_only_there(bundle, sealed, tmp_path):
    with pytest.raises(UsageError, match="the bundle is encrypted"):
        runtime.load(sealed)
    with pytest.raises(UsageError, match="not encrypted"):
        runtime.load(bundle, key=KEY)
    (tmp_path / "short").write_bytes(b"abc")
    for key, said in (
        (tmp_path / "short", "32 bytes, or 64"),
        (tmp_path / "none", "does not exist"),
        (b"x", "32 bytes"),
    ):
        with pytest.raises(UsageError, match=said):
            runtime.load(sealed, key=key)


def test_where_there_is_no_memory_to_open_it_in_it_is_refused(sealed, monkeypatch):
    monkeypatch.setattr(encryption.os, "access", lambda *_: False)
    with pytest.raises(MissingDependency, match="opened in memory alone"):
        runtime.load(sealed, key=KEY)


def test_the_command_line_encrypts_and_predicts(bundle, mmedge, tmp_path):
    (tmp_path / "key").write_text(KEY.hex() + "\n")
    said = mmedge("export", bundle, "--encrypt", tmp_path / "key", "--json")
    sealed = bundle.with_name("bundle.enc")
    assert said.code == 0 and str(sealed) in said.out, said.err
    arguments = ("--a", "1", "--b", "2", "--c", "3", "--json")
    plain, opened = (
        mmedge("predict", bundle, *arguments),
        mmedge("predict", sealed, *arguments, "--key", tmp_path / "key"),
    )
    assert (plain.code, plain.out) == (opened.code, opened.out), opened.err
    assert mmedge("export", bundle, "--encrypt", tmp_path / "none").code == 2
