"""The page in a real headless Chromium: it says nothing on the console, sorts, and shows what report.json holds."""

import json
import math
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
found.features = [...document.querySelectorAll("figure:not(.evidence)")].filter((part) => part.textContent.includes("nearest alike")).map((part) => ({ caption: part.querySelector("figcaption").innerText, dots: part.querySelectorAll("use").length }));
found.tips = document.querySelectorAll("svg .tip > title").length;
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
found.styles = [...document.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect().width);
const frame = document.querySelector(".frontier").closest(".wide"), bar = frame.previousElementSibling;
const chart = bar.previousElementSibling.querySelector("svg");
const dots = () => [...chart.querySelectorAll(".tip use")].map((dot) => [+dot.getAttribute("x"), +dot.getAttribute("y")]);
const pointer = (name, on, x, y) => {
  const at = new DOMPoint(x, y).matrixTransform(chart.getScreenCTM());
  on.dispatchEvent(new PointerEvent(name, { clientX: at.x, clientY: at.y, bubbles: true, pointerType: "mouse" }));
};
const { box: [left, top_, right, bottom] } = JSON.parse(chart.dataset.zoom);
found.zoom = { box: [left, top_, right, bottom], before: dots() };
pointer("pointerdown", chart, left, top_);
pointer("pointermove", chart, (left + right) / 2, (top_ + bottom) / 2);
pointer("pointerup", window, 0, 0);
found.zoom.near = dots();
found.zoom.ticks = [...chart.querySelectorAll(".ticks text")].map((tick) => [+tick.textContent, +tick.getAttribute("x"), +tick.getAttribute("y")]);
found.zoom.axes = JSON.parse(chart.dataset.zoom);
[...bar.querySelectorAll("button")].at(-1).click();
found.zoom.whole = dots();
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
    assert precisions.keys() == shown.keys() and len(frontier) - 1 >= len(precisions) + 4
    for name, candidate in precisions.items():
        assert shown[name][2] == f"{candidate['quality_validation']:.3f}"
        assert shown[name][3] == "[{:.3f}, {:.3f}]".format(*candidate["ci95"])
        assert shown[name][5] == f"{candidate['size_bytes'] / 1000:,.0f} kB"


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
    figures = ("shapley", "alone", "ablation")
    assert rows[1:] == [
        [s["modality"], *("{:+.3f} [{:+.3f}, {:+.3f}]".format(s[figure], *s[f"{figure}_ci95"]) for figure in figures)]
        for s in shares
    ]


def test_what_is_seen_inside_is_that_of_the_report(found, finished):
    inside = finished.report["inside"]
    assert len(found["features"]) == len(inside["embeddings"]) == 3
    for shown, part in zip(found["features"], inside["embeddings"]):
        told = "{:.3f} [{:.3f}, {:.3f}]".format(part["alike"], *part["alike_ci95"])
        assert f"n = {len(part['x'])}; {told}" in shown["caption"] and shown["dots"] >= len(part["x"])


def test_a_drag_over_a_part_of_a_chart_fills_it_with_that_part(found):
    zoom = found["zoom"]
    left, top, _, _ = zoom["box"]
    assert len(zoom["before"]) > 5 and zoom["whole"] == [pytest.approx(dot) for dot in zoom["before"]]
    for (x, y), near in zip(zoom["before"], zoom["near"]):
        assert near == pytest.approx([left + 2 * (x - left), top + 2 * (y - top)], abs=0.1)
    axes, (_, _, right, bottom) = zoom["axes"], zoom["box"]
    across = [(value, x) for value, x, y in zoom["ticks"] if y > bottom + 10]
    assert len(across) > 2 and len(zoom["ticks"]) - len(across) > 2 and axes["x"]["log"]
    for value, x in across:  # a round number stands where it lies on the axis, which shows its first half
        low, high = (math.log10(axes["x"][end]) for end in ("low", "high"))
        assert x == pytest.approx(left + (right - left) * 2 * (math.log10(value) - low) / (high - low), abs=0.1)


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(found):
    values = [float(value) for value in found["sorted"]]
    assert values == sorted(values) and found["reversed"] == [f"{v:.3f}" for v in sorted(values, reverse=True)]
    assert len(set(values)) > 1


def test_on_a_phone_nothing_is_wider_than_the_screen(finished, tmp_path):
    found = opened(finished.out / "report.html", tmp_path, 500)  # Chromium's narrowest window
    assert found["wrong"] == [] and found["overflow"] <= 0
