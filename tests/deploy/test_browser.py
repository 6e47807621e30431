"""The page in a real headless Chromium: the same answers as the Python runtime, from the same files."""

import http.server
import json
import queue
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmedge import runtime
from tests.deploy.linear import write_bundle, write_sound

SOURCE = Path(__file__).parents[2] / "deploy/browser"

# Runs what the page runs, on files that are served instead of chosen, and posts the answers back.
DRIVER = """
import { load } from "./app.js";
const blob = async (name) => (await fetch(name)).blob();
try {
  const engine = await load("bundle");
  const image = await blob("image.png"), sized = await blob("sized.png"), audio = await blob("audio.wav");
  const answers = [];
  for (const given of [{ image, audio }, { image }, { audio }, { image: sized }]) answers.push(await engine.predict(given));
  await fetch("/answers", { method: "POST", body: JSON.stringify(answers) });
} catch (error) {
  await fetch("/answers", { method: "POST", body: JSON.stringify({ error: String(error) }) });
}
"""


@pytest.mark.slow
def test_the_page_answers_as_python_does(tmp_path):
    chromium = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if chromium is None or shutil.which("npm") is None:
        pytest.skip("there is no chromium, or no npm")
    site = Path(shutil.copytree(SOURCE, tmp_path / "site"))
    subprocess.run(["npm", "install", "--silent", "--prefix", tmp_path / "npm", "onnxruntime-web"], check=True)
    for file in (tmp_path / "npm/node_modules/onnxruntime-web/dist").glob("ort*wasm*.[mw]*"):
        shutil.copy(file, site)
    bundle = write_bundle(site / "bundle")
    random = np.random.default_rng(4)
    Image.fromarray(random.integers(0, 256, (37, 23, 3), np.uint8)).save(site / "image.png")
    Image.fromarray(random.integers(0, 256, (12, 10), np.uint8)).save(site / "sized.png")
    write_sound(site / "audio.wav")
    (site / "driver.js").write_text(DRIVER)
    (site / "driver.html").write_text('<!doctype html><script type="module" src="driver.js"></script>')
    answers: queue.Queue = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = {
            **http.server.SimpleHTTPRequestHandler.extensions_map,
            ".mjs": "text/javascript",
            ".wasm": "application/wasm",
        }

        def do_POST(self):
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    browser = subprocess.Popen(
        [*command, f"http://127.0.0.1:{server.server_address[1]}/driver.html"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        got = answers.get(timeout=120)
    finally:
        browser.terminate()
        browser.wait(20)
        server.shutdown()
    assert "error" not in got, got
    engine = runtime.load(bundle)
    image, audio = site / "image.png", site / "audio.wav"
    for answer, given in zip(
        got, ({"image": image, "audio": audio}, {"image": image}, {"audio": audio}, {"image": site / "sized.png"})
    ):
        expected = engine.predict(**given)
        assert answer["label"] == expected.label
        assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=2e-4)
