"""profile, doctor, and export's options for a finished bundle, from the command line."""

import json
import os
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from mmedge import runtime
from tests.bundles import bundle, made_bundle, sample

__all__ = ["bundle", "made_bundle", "sample"]


def mmedge(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "140"}
    return subprocess.run(
        [sys.executable, "-m", "mmedge", *map(str, arguments)], capture_output=True, text=True, env=environment
    )


@pytest.mark.long
def test_profile_prints_one_document_and_writes_plots(bundle, tmp_path):
    done = mmedge(
        "profile",
        bundle,
        "--against",
        bundle / "model.onnx",
        "--runs",
        20,
        "--idle",
        0,
        "--json",
        "--out",
        tmp_path / "p",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert [model["name"] for model in record["models"]] == [str(bundle), str(bundle / "model.onnx")]
    assert {file.name for file in (tmp_path / "p").iterdir()} == {
        "profile.json",
        "histogram.svg",
        "timeline.svg",
        "branches.svg",
    }
    assert "branches" in done.stderr and "x the latency of 1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 1, "no such model"),
        (["BUNDLE", "--target", "tensorrt"], 2, "no engine for 'tensorrt'"),
        (["BUNDLE", "--batch", "0"], 2, "--batch wants"),
        (["BUNDLE", "--shape", "x"], 2, "--shape wants"),
        (["BUNDLE", "--target", "ssh://nowhere"], 2, "write ssh://"),
        (["BUNDLE/model.onnx", "--target", "onnxruntime-cuda"], 6, "pip"),
    ],
)
def test_profile_tells_what_is_wrong(bundle, arguments, code, said):
    done = mmedge("profile", *(word.replace("BUNDLE", str(bundle)) for word in arguments))
    assert done.returncode == code and said in done.stderr, done.stderr


def test_doctor_prints_one_document():
    done = mmedge("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["targets"]["onnxruntime-cpu"]["run"]["ready"]
    assert "onnxruntime-cpu" in done.stderr


def test_a_finished_bundle_is_signed_and_zipped(bundle, tmp_path, sample):
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    done = mmedge("export", bundle, "--zip", "--sign", private, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == [str(bundle / "manifest.sig"), f"{bundle}.zip"]
    assert runtime.load(f"{bundle}.zip", require_signature=public).predict(**sample).label
    said = mmedge("predict", f"{bundle}.zip", "--vitals", "0,0,0", "--require-signature", public, "--json")
    assert said.returncode == 0 and json.loads(said.stdout)["label"]
    (bundle / "manifest.sig").unlink()
    said = mmedge("predict", bundle, "--vitals", "0,0,0", "--require-signature", public)
    assert said.returncode == 1 and "is not signed" in said.stderr


def test_export_wants_a_recipe_or_a_bundle_to_rebuild(bundle):
    assert mmedge("export").returncode == 2
    done = mmedge("export", "--rebuild", bundle)
    assert done.returncode == 2 and "no engine to rebuild" in done.stderr
