"""Bundles: one file or a folder, verified before anything of them is loaded, whatever is wrong with them."""

import json
import struct
import zipfile

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from onnx import TensorProto, helper

from mmedge import artifact, runtime
from mmedge import bundle as bundles
from mmedge.backends.onnxfile import beside
from mmedge.errors import MmedgeError, UsageError
from mmedge.runtime import engine as engines
from mmedge.runtime.stream import Stream


@pytest.fixture
def archive(bundle, tmp_path):
    bundles.pack(bundle, tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


@pytest.fixture
def keys(tmp_path):
    """(private key file, public key file) of an author, and of a stranger."""
    pairs = []
    for name in ("author", "stranger"):
        key = ed25519.Ed25519PrivateKey.generate()
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        plain = serialization.NoEncryption()
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        pairs.append((private, public))
    return pairs


@pytest.fixture
def nothing_opened(monkeypatch):
    """No model may be opened while this is in force."""

    def refuse(*_, **__):
        raise AssertionError("a model was opened before its bundle was verified")

    monkeypatch.setattr(engines, "opened", refuse)


def test_a_zipped_bundle_answers_as_its_folder_does(bundle, archive, sample):
    assert runtime.load(archive).predict(**sample) == runtime.load(bundle).predict(**sample)


def test_the_same_bundle_gives_the_same_file_and_nothing_in_it_is_compressed(bundle, archive, tmp_path):
    bundles.pack(bundle, tmp_path / "again.zip")
    assert archive.read_bytes() == (tmp_path / "again.zip").read_bytes()
    with zipfile.ZipFile(archive) as opened:
        assert {entry.compress_type for entry in opened.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.usefixtures("nothing_opened")
@pytest.mark.parametrize("kept", [0, 10, 1000, -20])
def test_a_truncated_zip_is_refused(archive, kept):
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(MmedgeError):
        runtime.load(archive)


@pytest.mark.usefixtures("nothing_opened")
def test_a_flipped_byte_of_a_graph_is_refused(archive):
    data = bytearray(archive.read_bytes())
    data[data.find(b"conv_1")] ^= 1
    archive.write_bytes(data)
    with pytest.raises(MmedgeError):
        runtime.load(archive)


@pytest.mark.usefixtures("nothing_opened")
@pytest.mark.parametrize(
    "name", ["../outside", "/tmp/outside", "a/../../outside", "a\\..\\outside", "C:/outside", "MODEL.onnx"]
)
def test_an_entry_that_leads_out_or_stands_twice_is_refused_and_written_nowhere(archive, tmp_path, name):
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(MmedgeError, match="no bundle that mmedge wrote"):
        runtime.load(archive)
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.usefixtures("nothing_opened")
def test_a_link_entry_is_refused(archive):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(MmedgeError, match="not a plain file"):
        runtime.load(archive)


@pytest.mark.usefixtures("nothing_opened")
def test_a_link_in_a_folder_is_refused(bundle, tmp_path):
    (bundle / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (bundle / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(MmedgeError, match="missing or a link"):
        runtime.load(bundle)


@pytest.mark.usefixtures("nothing_opened")
def test_a_compressed_entry_which_could_be_a_bomb_is_refused(archive):
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zeros", bytes(1_000_000))
    with pytest.raises(MmedgeError, match="compressed"):
        runtime.load(archive)


@pytest.mark.usefixtures("nothing_opened")
def test_sizes_beyond_the_file_are_refused(archive):
    data = bytearray(archive.read_bytes())
    at = data.find(b"PK\x01\x02")  # the first entry of the central directory: sizes stand at 20 and 24
    struct.pack_into("<II", data, at + 20, 0xF0000000, 0xF0000000)
    archive.write_bytes(data)
    with pytest.raises(MmedgeError, match="larger than the file"):
        runtime.load(archive)


@pytest.mark.usefixtures("nothing_opened")
@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd"])
def test_a_manifest_that_names_a_file_outside_is_refused(bundle, name):
    record = json.loads((bundle / artifact.MANIFEST).read_text())
    record["files"][name] = {"sha256": "0" * 64, "size_bytes": 1}
    del record["sha256"]
    (bundle / artifact.MANIFEST).write_text(json.dumps({**record, "sha256": artifact.hash_json(record)}))
    with pytest.raises(MmedgeError, match="outside its folder"):
        runtime.load(bundle)


def test_a_signed_bundle_loads_with_its_authors_key_folder_and_zip(bundle, keys, tmp_path, sample):
    (private, public), _ = keys
    bundles.sign(bundle, private)
    bundles.pack(bundle, tmp_path / "signed.zip")
    for path in (bundle, tmp_path / "signed.zip"):
        assert runtime.load(path, require_signature=public).predict(**sample).label
    assert runtime.load(bundle, require_signature=public.read_bytes())


@pytest.mark.usefixtures("nothing_opened")
def test_an_unsigned_bundle_is_refused_where_a_signature_is_required(bundle, archive, keys):
    for path in (bundle, archive):
        with pytest.raises(MmedgeError, match="is not signed"):
            runtime.load(path, require_signature=keys[0][1])


@pytest.mark.usefixtures("nothing_opened")
def test_another_authors_signature_is_refused(bundle, keys):
    bundles.sign(bundle, keys[1][0])
    with pytest.raises(MmedgeError, match="not by the key"):
        runtime.load(bundle, require_signature=keys[0][1])


@pytest.mark.usefixtures("nothing_opened")
def test_a_bundle_that_was_changed_with_all_its_hashes_is_refused_by_its_signature(bundle, keys, rewritten):
    (private, public), _ = keys
    bundles.sign(bundle, private)
    signature = (bundle / bundles.SIGNATURE).read_text()
    rewritten(lambda meta: meta.update(name="malice"))
    (bundle / bundles.SIGNATURE).write_text(signature)
    assert artifact.read(bundle).meta["name"] == "malice"  # hashes alone do not stop it
    with pytest.raises(MmedgeError, match="or the bundle was changed"):
        runtime.load(bundle, require_signature=public)


@pytest.mark.parametrize("content", ["", "zz", "00" * 64])
def test_a_signature_that_is_none_is_refused(bundle, keys, content):
    (bundle / bundles.SIGNATURE).write_text(content)
    with pytest.raises(MmedgeError):
        runtime.load(bundle, require_signature=keys[0][1])


def test_a_key_that_is_none_is_a_usage_error(bundle, keys, tmp_path):
    (private, public), _ = keys
    bundles.sign(bundle, private)
    for key in (private, tmp_path / "nowhere", b"key"):
        with pytest.raises(UsageError):
            runtime.load(bundle, require_signature=key)
    for key in (public, tmp_path / "nowhere"):
        with pytest.raises(UsageError):
            bundles.sign(bundle, key)


def _set(*path, value):
    def edit(meta):
        place = meta
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return edit


CPU = ("targets", "onnxruntime-cpu")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda meta: meta.pop("contract"), "says of contract"),
        (_set("contract", value=5), "says of contract"),
        (_set("contract", "task", value="x"), r"contract\.task"),
        (_set("contract", "modalities", "image", "height", value=10**9), r"image\.height"),
        (_set("contract", "modalities", "image", "kind", value="video"), r"modalities\.image"),
        (_set("contract", "modalities", "image", "height", value=7), "input image is"),
        (_set("contract", "heads", "logits", "labels", value=["yes", "no"]), "its contract says"),
        (
            lambda meta: meta["contract"].update(heads={"nothing": meta["contract"]["heads"]["logits"]}),
            "its contract says nothing",
        ),
        (lambda meta: meta.pop("targets"), "no engine for"),
        (_set("targets", value=[]), "no engine for"),
        (_set(*CPU, value=5), r"targets\.onnxruntime-cpu"),
        (_set(*CPU, "subsets", value=[1]), "subsets"),
        (_set(*CPU, "split", value={}), r"split\.files"),
        (_set(*CPU, "split", "files", value={}), "parts none, wanted are image, vitals and fusion"),
        (lambda meta: meta["targets"]["onnxruntime-cpu"]["split"]["files"].pop("image"), "parts fusion, vitals"),
        (_set(*CPU, "split", "files", "sound", value="split/image.onnx"), "parts fusion, image, sound, vitals"),
        (_set(*CPU, "engine", value={"file": "x"}), r"engine\.version"),
        (_set(*CPU, "file", value="nowhere.onnx"), "does not list"),
        (_set(*CPU, "file", value="../../../etc/passwd"), "does not list"),
        (_set(*CPU, "file", value="subsets/image.onnx"), "no input present"),
        (_set(*CPU, "subsets", "image", value="/etc/passwd"), "does not list"),
        (_set(*CPU, "subsets", "sound", value="model.onnx"), "engine of the subset 'sound'"),
    ],
)
def test_a_manifest_that_its_author_or_another_version_wrote_otherwise_is_told(rewritten, sample, edit, said):
    """Hashes are right; what they vouch for is not what this version understands, or graph and manifest differ."""
    bundle = rewritten(edit)
    with pytest.raises(MmedgeError, match=said) as raised:
        runtime.load(bundle).predict(image=sample["image"])
    assert len(str(raised.value).splitlines()) <= 3 and "\n  do: " in str(raised.value)


def test_a_part_of_a_split_engine_that_does_not_run_is_told_by_the_stream_as_by_the_engine(rewritten):
    """The parts are exchanged: a graph of the bundle, but not the one of that name."""
    with pytest.raises(MmedgeError, match="the engine does not run on these values") as raised:
        Stream(runtime.load(rewritten(_set(*CPU, "split", "files", "image", value="split/vitals.onnx"))))
    assert len(str(raised.value).splitlines()) <= 3 and "\n  do: " in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"null", b"{", b'{"schema": 99}', b"\xff\xfe"])
def test_a_manifest_that_is_none_is_told(bundle, content):
    (bundle / artifact.MANIFEST).write_bytes(content)
    with pytest.raises(MmedgeError, match="manifest") as raised:
        runtime.load(bundle)
    assert "\n  do: " in str(raised.value)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_engine_that_was_exchanged_after_loading_does_not_answer(bundle, archive, keys, sample, kind):
    (private, public), _ = keys
    bundles.sign(bundle, private)
    if kind == "zip":
        bundles.pack(bundle, archive)
    engine = runtime.load(bundle if kind == "folder" else archive, require_signature=public)
    folder = engine._bundle.folder
    before = engine.predict(image=sample["image"])  # opens the subset's engine
    other = runtime.load(bundle if kind == "folder" else archive, require_signature=public)
    for name in ("subsets/image.onnx", "split/image.onnx"):
        (engine._bundle.folder / name).write_bytes((folder / "subsets/vitals.onnx").read_bytes())
        (other._bundle.folder / name).write_bytes((folder / "subsets/vitals.onnx").read_bytes())
    for ask in (lambda: other.predict(image=sample["image"]), lambda: other.parts("image"), other.warm_up):
        with pytest.raises(MmedgeError, match="changed or removed after the bundle was loaded") as raised:
            ask()
        assert len(str(raised.value).splitlines()) == 3
    assert engine.predict(image=sample["image"]) == before  # what was opened, and is held


def with_weights_apart(folder, location):
    """The bundle's graph with its weights in the file ``location``, named by an initializer."""
    model = onnx.load(folder / "model.onnx")
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(onnx.numpy_helper.to_array(tensor).tobytes())
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    (folder / "model.onnx").write_bytes(model.SerializeToString())  # onnx.save would write the weights itself


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd"])
def test_weights_in_a_file_that_the_manifest_does_not_list_are_not_loaded(bundle, keys, location):
    """A signature over the manifest says nothing of a file that is not in it: whoever can write it would give the answers."""
    with bundles.rewriting(artifact.read(bundle)) as (folder, _):
        with_weights_apart(folder, location)
        (folder / "weights.bin").replace(bundle.parent / "weights.bin")
    if location == "weights.bin":
        (bundle.parent / "weights.bin").rename(bundle / "weights.bin")
    (private, public), _ = keys
    bundles.sign(bundle, private)
    with pytest.raises(MmedgeError, match="names a file that its manifest does not list"):
        runtime.load(bundle, require_signature=public)


def test_weights_in_a_listed_file_are_loaded_and_when_swapped_afterwards_are_not(bundle, sample):
    before = runtime.load(bundle).predict(**sample)
    with bundles.rewriting(artifact.read(bundle)) as (folder, _):
        with_weights_apart(folder, "weights.bin")
    assert runtime.load(bundle).predict(**sample).probabilities == pytest.approx(before.probabilities)
    read = bundles.read(bundle)
    (bundle / "weights.bin").write_bytes(bytes((bundle / "weights.bin").stat().st_size))
    with pytest.raises(MmedgeError, match="changed or removed"):
        bundles.verified_file(read.artifact, "model.onnx")


def test_weights_that_a_branch_of_a_graph_names_are_found(tmp_path):

    def tensor(name):
        made = onnx.numpy_helper.from_array(np.ones(8, np.float32), name)
        onnx.external_data_helper.set_external_data(made, f"{name}.bin")
        return made

    def branch(name):
        node = helper.make_node("Constant", [], [name], value=tensor(f"constant_{name}"))
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8])]
        return helper.make_graph([node], name, [], given, [tensor(f"initial_{name}")])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    taken = [helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    given = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])]
    inside = helper.make_node("Constant", [], ["z"], value=tensor("function"))
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("d", "f", [], ["z"], [inside], opsets)
    model = helper.make_model(helper.make_graph([node], "g", taken, given), opset_imports=opsets, functions=[function])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    expected = {f"{kind}_{name}.bin" for kind in ("constant", "initial") for name in "ab"} | {"function.bin"}
    assert beside(tmp_path / "m.onnx") == expected


def test_a_graph_that_gives_no_row_is_told(bundle, sample):
    with bundles.rewriting(artifact.read(bundle)) as (folder, meta):
        meta["targets"]["onnxruntime-cpu"] = {"precision": "fp32", "file": "model.onnx"}
        model = onnx.load(folder / "model.onnx")
        model.graph.node[-1].output[0] = "all"
        model.graph.node.append(helper.make_node("Slice", ["all", "zero", "zero", "zero"], ["logits"]))
        onnx.save(model, folder / "model.onnx")
    with pytest.raises(MmedgeError, match="gives 0 outputs for 1 samples"):
        runtime.load(bundle).predict(**sample)
