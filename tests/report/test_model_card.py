"""A bundle's card says what it is, with the Hub's metadata, and the bundle and its card are shared in one commit."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mmedge import artifact, hub
from mmedge.api import Bundle
from mmedge.errors import MissingDependency, MmedgeError, UsageError
from mmedge.report.model_card import card, report_of
from mmedge.report.record import read_report


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a push asks of it: makes a repository, and takes a commit of files that it wants inline."""

    repositories: dict[str, dict[str, bytes]] = {}
    private: dict[str, bool] = {}

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = self._body()
        _, _, *rest = self.path.strip("/").split("/")
        if self.headers["authorization"] != "Bearer hf_may_write":
            self._answer(403, {"error": "forbidden"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            url = f"http://127.0.0.1:{self.server.server_port}/{name}"
            taken = name in self.repositories
            self._answer(409 if taken else 200, {"url": url, "error": "You already created this model repo"})
            self.repositories.setdefault(name, {})
            self.private.setdefault(name, asked.get("visibility") == "private" or bool(asked.get("private")))
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "preupload" in rest:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self._answer(200, {"files": files})
        else:
            rows = [json.loads(line) for line in body.splitlines()]
            for row in rows:
                if row["key"] == "file":
                    content = base64.b64decode(row["value"]["content"])
                    self.repositories["/".join(rest[:2])][row["value"]["path"]] = content
            self._answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": self.path})

    def _body(self) -> bytes:
        if self.headers["Content-Length"]:
            return self.rfile.read(int(self.headers["Content-Length"]))
        found = b""  # in chunks
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[type[Hub]]:
    """The stand-in, in place of the Hub."""
    from huggingface_hub import constants

    kind = type("Own", (Hub,), {"repositories": {}, "private": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", address, raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_may_write")
        yield kind
        running.shutdown()


@pytest.fixture
def shipped(finished, tmp_path) -> Path:
    """A bundle with the report of its run beside it."""
    shutil.copytree(finished.out / "bundle", tmp_path / "out" / "bundle")
    shutil.copy(finished.out / "report.json", tmp_path / "out")
    return tmp_path / "out" / "bundle"


def metadata(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    return YAML(typ="safe").load(text.split("---\n")[1])


def test_the_card_tells_what_the_report_says(shipped, finished):
    found = artifact.read(shipped)
    text = card(found, report_of(found), "apache-2.0", "me/digits")
    head = metadata(text)
    export = finished.stage("export-onnxruntime-cpu")
    (result,) = head["model-index"][0]["results"]
    assert head["license"] == "apache-2.0" and head["library_name"] == "mmedge" and "pipeline_tag" not in head
    assert {"onnx", "multimodal", "image", "audio", "classification", "tensorrt-rtx"} <= set(head["tags"])
    assert result["dataset"]["name"] == "manifest.csv" and result["dataset"]["split"] == "test"
    assert result["metrics"][0]["type"] == "accuracy"
    assert result["metrics"][0]["value"] == pytest.approx(export["quality"]["value"], abs=1e-6)
    assert "on 60 samples of the test split, 95 % interval" in result["metrics"][0]["name"]
    low, high = export["quality"]["ci95"]
    row = next(line for line in text.splitlines() if line.startswith("| onnxruntime-cpu |"))
    assert f"{export['quality']['value']:.3f} [{low:.3f}, {high:.3f}] | 60 |" in row
    assert f"{export['latency']['p50_ms']:.3f}" in row and finished.report["machine"]["cpu"] in text
    assert 'engine.predict(image="photo.jpg", audio="sound.wav")' in text and "mmedge.load(path)" in text
    assert "Any of them may be missing" in text and f"| audio | {export['subsets']['audio']:.3f}" in text
    assert "240 training, 50 validation and 60 test samples" in text and "Verdict: **not judged**" in text


def test_each_of_several_heads_has_its_figure_and_a_model_without_data_has_none(shipped, finished):
    found = artifact.read(shipped)
    quality = finished.stage("export-onnxruntime-cpu")["quality"]
    head = found.meta["contract"]["heads"]["logits"]
    found.meta["contract"]["heads"] = {"digit": head, "again": head}
    for figures in found.meta["figures"].values():
        figures |= {"heads": {"digit": {"quality": quality}, "again": {"quality": quality}}}
        del figures["quality"]
    text = card(found, None)
    assert [result["task"]["name"] for result in metadata(text)["model-index"][0]["results"]] == ["digit", "again"]
    row = next(line for line in text.splitlines() if line.startswith("| onnxruntime-cpu |"))
    assert "digit: accuracy" in row and "again: accuracy" in row and "print(prediction.heads)" in text
    found.meta["figures"] = {}
    text = card(found, None)
    assert "Nothing was measured" in text and "model-index" not in metadata(text)


def test_the_hub_reads_the_cards_metadata(shipped):
    from huggingface_hub import ModelCard

    found = artifact.read(shipped)
    read = ModelCard(card(found, report_of(found)))
    (result,) = read.data.eval_results
    assert read.data.license is None and result.dataset_name == "manifest.csv" and result.metric_type == "accuracy"


def test_a_bundle_alone_has_a_card_of_its_own_figures_and_another_runs_report_is_not_taken(shipped):
    report = shipped.parent / "report.json"
    values = json.loads(report.read_text())
    for stage in values["stages"]:
        stage["sha256"] = "0" * 64
    artifact.write_json(report, values)
    found = artifact.read(shipped)
    assert report_of(found) is None
    text = card(found, None)
    assert metadata(text)["model-index"] and "| onnxruntime-cpu | fp32 | accuracy" in text


def test_the_command_writes_the_card_into_a_finished_bundle_which_still_loads(shipped, mmedge):
    import mmedge as package

    said = mmedge("export", shipped, "--card", "--license", "mit", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["files"] == [str(shipped / "README.md")]
    assert metadata((shipped / "README.md").read_text())["license"] == "mit"
    assert set(package.load(shipped).contract.heads) == {"logits"}
    again = Bundle(shipped, shipped.parent, read_report(shipped.parent / "report.json")).card("mit")
    assert again == shipped / "README.md"


def test_a_bundle_and_its_card_are_shared_in_one_private_repository(shipped, server, mmedge):
    said = mmedge("export", shipped, "--push-to-hub", "me/digits", "--license", "mit")
    assert said.code == 0 and "shared: http://127.0.0.1" in said.err, said.err
    files = server.repositories["me/digits"]
    assert server.private["me/digits"] and set(files) == {*artifact.read(shipped).files, "manifest.json", "README.md"}
    assert all(content == (shipped / name).read_bytes() for name, content in files.items())
    assert b'snapshot_download("me/digits"' in files["README.md"]
    said = mmedge("export", shipped, "--push-to-hub", "me/digits")
    assert said.code == 2 and "exists already" in said.err and "--update" in said.err
    bundle = Bundle(shipped, shipped.parent, None)
    assert bundle.push_to_hub("me/digits", update=True).endswith("/me/digits")
    assert bundle.push_to_hub("me/open", private=False) and not server.private["me/open"]


def test_what_stops_a_push_is_told_in_a_sentence(shipped, server, mmedge, monkeypatch):
    with pytest.raises(UsageError, match="no name of a repository"):
        hub.push(shipped, "me/and/you")
    monkeypatch.setenv("HF_TOKEN", "hf_may_read")
    with pytest.raises(UsageError, match=r"refuses the token \(403\)"):
        hub.push(shipped, "me/digits")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    with pytest.raises(MmedgeError, match="cannot be reached"):
        hub.push(shipped, "me/digits")
    monkeypatch.delenv("HF_TOKEN")
    said = mmedge("export", "no-such-recipe.yaml", "--push-to-hub", "me/digits")
    assert said.code == 2 and "there is no token" in said.err, "before anything is built"
    assert mmedge("export", shipped, "--update").code == 2
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependency, match="mmedge.hub"):
        hub.push(shipped, "me/digits")
