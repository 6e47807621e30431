"""The page in a real headless Chromium: it says nothing on the console, sorts, and shows what report.json holds."""

import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
# Before the page's own script: what goes wrong. After it: what a reader sees, and sees after a click.
BEFORE = """<script>
window.wrong = [];
window.addEventListener("error", (event) => wrong.push(String(event.message)));
console.error = console.warn = (...what) => wrong.push(what.join(" "));
</script>"""
AFTER = """<script>
const cells = (table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.innerText.trim()));
const all = (name) => [...document.querySelectorAll(name)].map(cells);
document.querySelectorAll("details").forEach((part) => { part.open = true; });
const found = { wrong, stages: all(".stages"), frontier: all(".frontier"), differ: all(".disagreements"), share: all(".contributions") };
found.heads = [...document.querySelectorAll("section[data-head]")].map((part) => ({
  stage: part.dataset.stage, head: part.dataset.head, labels: cells(part.querySelector(".labels")), matrix: cells(part.querySelector(".matrix")),
}));
found.tips = document.querySelectorAll("svg .tip > title").length;
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
found.styles = [...document.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect().width);
const labels = document.querySelector(".labels");
labels.tHead.rows[0].cells[2].click();
found.sorted = cells(labels).slice(1).map((row) => row[2]);
labels.tHead.rows[0].cells[2].click();
found.reversed = cells(labels).slice(1).map((row) => row[2]);
const told = document.createElement("pre");
told.id = "found";
told.textContent = JSON.stringify(found);
document.body.append(told);
</script>"""


def opened(page, folder, width):
    """What the page shows in a window of a width: the object that AFTER gathers."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    text = page.read_text().replace("<head>", f"<head>{BEFORE}", 1).replace("</body>", f"{AFTER}</body>")
    (folder / "page.html").write_text(text)
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", (folder / "page.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    import html

    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.S).group(1)))


@pytest.fixture(scope="module")
def found(finished, tmp_path_factory):
    return opened(finished.out / "report.html", tmp_path_factory.mktemp("page"), 1240)


def test_nothing_goes_wrong_and_pictures_have_their_tips(found):
    assert found["wrong"] == [] and found["tips"] > 20 and min(found["styles"]) > 100


def test_the_stages_and_candidates_are_those_of_the_report(found, finished):
    (rows,) = found["stages"]
    shown = {row[0].split()[0]: row for row in rows[1:]}
    for stage in finished.report["stages"]:
        row = shown[stage["stage"]]
        assert row[4].split()[0] == f"{stage['quality']['value']:.3f}"
        if "latency" in stage:
            assert row[6:9] == [f"{stage['latency'][name]:.3f}" for name in ("p50_ms", "p95_ms", "p99_ms")]
    (frontier,) = found["frontier"]
    precisions = {c["precision"]: c for c in finished.stage("quantize")["candidates"]}
    shown = {row[1]: row for row in frontier if row[0] == "quantize"}
    assert precisions.keys() < shown.keys() and len(frontier) - 1 > len(precisions) + 4
    for name, candidate in precisions.items():
        assert shown[name][2] == f"{candidate['quality_validation']:.3f}"
        assert shown[name][4] == f"{candidate['size_bytes'] / 1000:,.0f} kB"


def test_confusion_recall_disagreements_and_shares_are_those_of_the_report(found, finished):
    assert [part["stage"] for part in found["heads"]] == ["export-onnxruntime-cpu", "teacher"]
    for part in found["heads"]:
        review = finished.stage(part["stage"])["review"][part["head"]]
        header, *rows = part["matrix"]
        shown = {(row[0], header[k]): int(n) for row in rows for k, n in enumerate(row[1:], 1) if n}
        assert shown == {(cell["target"], cell["chosen"]): cell["n"] for cell in review["confusion"]}
        for row, label in zip(part["labels"][1:], review["labels"], strict=True):
            assert row[:3] == [label["label"], str(label["n"]), f"{label['recall']:.3f}"]
            assert row[3] == "[{:.3f}, {:.3f}]".format(*label["recall_ci95"])
    (rows,) = found["differ"]
    assert [int(row[0]) for row in rows[1:]] == [s["row"] for s in finished.report["disagreements"]["samples"]]
    (rows,) = found["share"]
    shares = finished.report["contributions"][0]["modalities"]
    assert [row[:2] for row in rows[1:]] == [[s["modality"], f"{s['shapley']:+.3f}"] for s in shares]


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(found):
    values = [float(value) for value in found["sorted"]]
    assert values == sorted(values) and found["reversed"] == [f"{v:.3f}" for v in sorted(values, reverse=True)]
    assert len(set(values)) > 1


def test_on_a_phone_nothing_is_wider_than_the_screen(finished, tmp_path):
    found = opened(finished.out / "report.html", tmp_path, 500)  # Chromium's narrowest window
    assert found["wrong"] == [] and found["overflow"] <= 0
