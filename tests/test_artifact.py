"""Artifacts: what is read is what was written, or an error; what is there is whole."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mmedge import artifact
from mmedge.errors import MmedgeError
from tests.conftest import child_environment


def made(path, text="hello", **more):
    with artifact.creating(path, stage="teacher", key="k", parent=None) as (folder, meta):
        (folder / "sub").mkdir()
        (folder / "weights.bin").write_text(text)
        (folder / "sub" / "more.bin").write_text("more")
        meta.update(more)
    return artifact.read(path)


def resigned(path, change):
    """Change the manifest and put its own hash right again, as one who forges it would."""
    record = json.loads((path / "manifest.json").read_text())
    record.pop("sha256")
    change(record)
    (path / "manifest.json").write_text(json.dumps({**record, "sha256": artifact.hash_json(record)}))


def test_what_was_written_is_read(tmp_path):
    read = made(tmp_path / "a", note="x")
    assert (read.stage, read.key, read.parent, read.meta) == ("teacher", "k", None, {"note": "x"})
    assert read.file("weights.bin").read_text() == "hello"


def test_the_same_content_has_the_same_hash_wherever_it_lies(tmp_path):
    assert made(tmp_path / "a").sha256 == made(tmp_path / "b").sha256
    assert made(tmp_path / "c", "other").sha256 != made(tmp_path / "a").sha256


def test_a_changed_file_is_told_by_name(tmp_path):
    made(tmp_path / "a")
    (tmp_path / "a" / "weights.bin").write_text("hellO")
    with pytest.raises(MmedgeError, match=r"weights\.bin"):
        artifact.read(tmp_path / "a")


def test_a_changed_manifest_is_told(tmp_path):
    made(tmp_path / "a")
    manifest = tmp_path / "a" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"teacher"', '"student"'))
    with pytest.raises(MmedgeError, match="own hash"):
        artifact.read(tmp_path / "a")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: text[:-1],
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("{", '{"stage": "bundle",', 1),  # a key twice: some readers take the first
    ],
)
def test_not_one_byte_of_a_manifest_may_change(tmp_path, change):
    made(tmp_path / "a")
    manifest = tmp_path / "a" / "manifest.json"
    manifest.write_bytes(change(manifest.read_text()).encode())
    with pytest.raises(MmedgeError, match="byte for byte"):
        artifact.read(tmp_path / "a")


def test_a_manifest_that_is_a_link_is_not_followed(tmp_path):
    made(tmp_path / "a")
    (tmp_path / "a/manifest.json").rename(tmp_path / "elsewhere.json")
    for target in (tmp_path / "elsewhere.json", "/dev/zero"):  # the second has no end
        (tmp_path / "a/manifest.json").unlink(missing_ok=True)
        (tmp_path / "a/manifest.json").symlink_to(target)
        with pytest.raises(MmedgeError, match="no plain file"):
            artifact.read(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 99}', "\x00\xff"])
def test_a_half_written_or_foreign_manifest_is_an_error_of_three_lines_at_most(tmp_path, text):
    made(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text(text)
    with pytest.raises(MmedgeError) as raised:
        artifact.read(tmp_path / "a")
    assert len(str(raised.value).splitlines()) <= 3


def test_a_manifest_that_is_not_text_is_an_error(tmp_path):
    made(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(MmedgeError, match="cannot be read"):
        artifact.read(tmp_path / "a")


@pytest.mark.parametrize("field", ["files", "stage", "key", "parent", "meta"])
def test_a_manifest_without_a_field_is_an_error(tmp_path, field):
    made(tmp_path / "a")
    resigned(tmp_path / "a", lambda record: record.pop(field))
    with pytest.raises(MmedgeError, match=field):
        artifact.read(tmp_path / "a")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/../../secret", "..\\secret"])
def test_a_path_outside_the_folder_is_refused(tmp_path, name):
    (tmp_path / "secret").write_text("s")
    made(tmp_path / "a")
    resigned(tmp_path / "a", lambda record: record["files"].update({name: {"sha256": "0", "size_bytes": 1}}))
    with pytest.raises(MmedgeError, match="outside"):
        artifact.read(tmp_path / "a")


def test_a_missing_file_is_told(tmp_path):
    made(tmp_path / "a")
    (tmp_path / "a" / "weights.bin").unlink()
    with pytest.raises(MmedgeError, match="missing"):
        artifact.read(tmp_path / "a")


def test_a_link_in_place_of_a_file_is_refused(tmp_path):
    made(tmp_path / "a")
    (tmp_path / "elsewhere").write_text("hello")
    (tmp_path / "a" / "weights.bin").unlink()
    (tmp_path / "a" / "weights.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MmedgeError, match="link"):
        artifact.read(tmp_path / "a")


def test_a_linked_folder_on_the_way_to_a_file_is_refused(tmp_path):
    made(tmp_path / "a")
    (tmp_path / "a" / "sub").rename(tmp_path / "elsewhere")
    (tmp_path / "a" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MmedgeError, match="link"):
        artifact.read(tmp_path / "a")


def test_a_folder_without_manifest_is_no_artifact(tmp_path):
    with pytest.raises(MmedgeError, match="no mmedge artifact"):
        artifact.read(tmp_path)
    with pytest.raises(MmedgeError, match="no mmedge artifact"):
        artifact.read(tmp_path / "nowhere")


def test_an_error_while_writing_leaves_the_old_artifact_and_nothing_else(tmp_path):
    old = made(tmp_path / "a")
    with (
        pytest.raises(RuntimeError),
        artifact.creating(tmp_path / "a", stage="x", key="k2", parent=None) as (folder, _),
    ):
        (folder / "weights.bin").write_text("half")
        raise RuntimeError("crash")
    assert artifact.read(tmp_path / "a").sha256 == old.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_told_with_what_to_do_and_leaves_the_old_artifact(tmp_path):
    old = made(tmp_path / "a")
    with (
        pytest.raises(MmedgeError, match="No space left") as raised,
        artifact.creating(tmp_path / "a", stage="x", key="k2", parent=None),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "free some space" in str(raised.value)
    assert artifact.read(tmp_path / "a").sha256 == old.sha256


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_to_rename_leaves_the_old_artifact(tmp_path, monkeypatch, failing):
    old = made(tmp_path / "a")
    real, calls = os.replace, []

    def replace(source, target):
        # Only the renames of whole folders count; the manifest is renamed too.
        if os.path.isdir(source):
            calls.append(source)
            if len(calls) == failing:
                raise OSError(errno.EIO, "input/output error")
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(MmedgeError, match="cannot write"):
        made(tmp_path / "a", "new")
    monkeypatch.undo()
    assert artifact.read(tmp_path / "a").sha256 == old.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_new_artifact_takes_the_place_of_the_old_and_leaves_nothing_beside_it(tmp_path):
    made(tmp_path / "a")
    assert made(tmp_path / "a", "new").file("weights.bin").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_replacing_keeps_the_old_file_where_writing_fails(tmp_path):
    file = tmp_path / "report.json"
    file.write_text("old")
    with pytest.raises(MmedgeError, match="cannot write"), artifact.replacing(file) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "no space")
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_never_holds_nan_or_infinity(tmp_path, value):
    with pytest.raises(ValueError):
        artifact.write_json(tmp_path / "x.json", {"figure": value})
    assert not list(tmp_path.iterdir())


def aged(path):
    """As a command that was killed an hour ago would have left it."""
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def test_what_a_killed_process_left_beside_is_removed_by_the_next_one(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom mmedge import artifact\n"
        "with artifact.creating(Path(sys.argv[1]) / 'a', stage='x', key='k', parent=None) as (folder, _):\n"
        "    (folder / 'half').write_text('x')\n"
        "    with artifact.replacing(Path(sys.argv[1]) / 'report.json'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=child_environment())
    assert done.returncode == -signal.SIGKILL
    left = [aged(path) for path in tmp_path.iterdir()]
    assert len(left) == 2
    made(tmp_path / "a")
    artifact.write_json(tmp_path / "report.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "report.json"]


def test_what_another_process_is_writing_and_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / ".a.notes").write_text("a user's")
    with artifact.creating(tmp_path / "a", stage="x", key="k", parent=None) as (folder, _):
        (folder / "weights.bin").write_text("slow")
        aged(folder)
        made(tmp_path / "a", "fast")
        assert (folder / "weights.bin").read_text() == "slow"
    assert artifact.read(tmp_path / "a").file("weights.bin").read_text() == "slow"
    aged(tmp_path / ".a.notes")
    made(tmp_path / "a")
    assert (tmp_path / ".a.notes").read_text() == "a user's"


def test_a_damaged_cache_is_told_of_and_not_taken(tmp_path):
    made(tmp_path / "a")
    said = []
    assert artifact.unchanged(tmp_path / "a", "k", said.append) and not said
    assert artifact.unchanged(tmp_path / "a", "other", said.append) is None and not said
    assert artifact.unchanged(tmp_path / "nowhere", "k", said.append) is None and not said
    (tmp_path / "a" / "weights.bin").write_text("spoilt")
    assert artifact.unchanged(tmp_path / "a", "k", said.append) is None
    assert "made again" in said[0] and str(tmp_path / "a") in said[0]


@pytest.mark.parametrize("name", ["a" * 5000, "/".join("ab" * 3000), "a\0b", "half \ud800", ""])
def test_a_file_name_that_no_file_can_have_is_refused_in_a_sentence(tmp_path, name):
    made(tmp_path / "a")
    record = json.loads((tmp_path / "a" / "manifest.json").read_text())
    record["files"] = {name: record["files"]["weights.bin"]}
    body = {key: value for key, value in record.items() if key != "sha256"}
    with contextlib.suppress(UnicodeEncodeError):
        record["sha256"] = artifact.hash_json(body)
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(record, indent=2) + "\n")
    with pytest.raises(MmedgeError) as told:
        artifact.read(tmp_path / "a")
    assert len(str(told.value)) < 800


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have_are_told(tmp_path, number):
    manifest = made(tmp_path / "a", n=1.5).path / artifact.MANIFEST
    manifest.write_text(manifest.read_text().replace("1.5", number))
    with pytest.raises(MmedgeError, match="the manifest cannot be read"):
        artifact.read(tmp_path / "a")


@pytest.mark.parametrize(
    "content", [b'{"a": [' + b"[]," * 4_000_000 + b"[]]}", b'{"a": [\n' + b"1,\n" * 400_000 + b"1]}"]
)
def test_a_manifest_of_very_many_values_is_refused_before_it_is_parsed(tmp_path, content):
    made(tmp_path / "a")
    (tmp_path / "a" / artifact.MANIFEST).write_bytes(content)
    start = time.process_time()
    with pytest.raises(MmedgeError, match="more than any model's"):
        artifact.read(tmp_path / "a")
    assert time.process_time() - start < 1


def test_a_value_that_is_null_is_remembered_too(tmp_path):
    computed = []
    for _ in range(2):
        assert artifact.remembered(tmp_path / "x.json", lambda: computed.append(1)) is None
    assert computed == [1]
