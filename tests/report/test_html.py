"""report.html: one page that needs nothing else, drawn from the record alone."""

import copy
import re
import shutil
from html.parser import HTMLParser

import pytest

from mmedge.report.charts import embedding
from mmedge.report.explained import EmbeddingRecord
from mmedge.report.html import write_html
from mmedge.report.record import parsed
from mmedge.report.schema import Report
from mmedge.report.table import print_report, short


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.svgs, self.links, self.tags = 0, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.svgs += tag == "svg"
        # A namespace is a name, not something that is fetched; a fragment stays inside the page.
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]


@pytest.fixture(scope="module")
def text(finished):
    return (finished.out / "report.html").read_text()


def test_the_page_loads_nothing_from_anywhere(text):
    page = Page(text)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links), page.links
    assert not {"iframe", "link", "img"} & set(page.tags) and page.tags.count("script") == 1
    assert not re.search(r"fetch|import|XMLHttp|eval|https?:", text[text.index("<script>") :])
    assert not re.search(r"url\(\s*['\"]?(?!#)", text) and "@import" not in text


def test_the_page_shows_what_each_branch_can_spare_and_what_was_taken(text, finished, capsys):
    assert "What each branch can spare" in text and "ring: taken" in text
    assert "attempt 1: " in text and text.count("<b>Taken.</b>") >= 2
    print_report(parsed(finished.report, Report))
    assert "branches narrowed one at a time" in capsys.readouterr().err


def test_the_page_has_its_pictures_sensitivity_of_layers_among_them(text, finished):
    assert Page(text).svgs == 17 and "all of audio" in text and "hollow: taken back to FP32" in text
    for said in ("latency, ms", "95 % interval", "image + audio", "epoch (dot: kept)", "gain of the distilled student"):
        assert said in text, said
    places = [text.index(part) for part in ("Was the teacher worth it?", "<svg", "Accuracy against latency")]
    assert places == sorted(places), "what the teacher was worth is the first picture"
    control = finished.report["controls"][0]
    assert "{:+.3f} [{:+.3f}, {:+.3f}]".format(control["gain"], *control["gain_ci95"]) in text


def test_the_page_has_every_stage_and_its_figures(finished, text):
    for stage in finished.report["stages"]:
        assert stage["stage"] in text
        assert f"{stage['quality']['value']:.3f}" in text
    assert finished.report["verdict"] in text


@pytest.mark.long
def test_the_same_report_gives_the_same_page(finished, text, tmp_path):
    write_html(parsed(finished.report, Report), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == text


@pytest.fixture(scope="module")
def kept(finished, tmp_path_factory):
    """The run's pictures, so that those of unchanged figures need not be drawn again."""
    return shutil.copytree(finished.out / ".work/pictures", tmp_path_factory.mktemp("kept") / "pictures")


@pytest.fixture(scope="module")
def changed(finished, kept, tmp_path_factory):
    """(report, its page): with words that look like HTML, gates that failed and a figure of few groups; drawn once."""
    report, file = copy.deepcopy(finished.report), tmp_path_factory.mktemp("changed") / "x.html"
    report["recipe"]["name"] = "<script>alert(1)</script>"
    report["stages"][0]["notes"].append("<b>bold</b>")
    report["stages"][0]["gates"] = [
        {"name": "quality", "limit": 0.99, "value": 0.5, "passed": False},
        {"name": "latency_p50_ms", "limit": 1.0, "passed": False},
        {
            "name": "ece",
            "limit": 0.1,
            "value": 0.0625,
            "passed": True,
            "outcome": "pass",
            "bounds": [0.05, 0.075],
            "n": 1269,
            "method": "jackknife",
            "confidence": 0.95,
        },
        {
            "name": "subset_drop.audio",
            "limit": 0.03,
            "value": 0.02,
            "passed": False,
            "outcome": "cannot tell",
            "bounds": [-0.01, 0.05],
            "needs": 2400,
        },
        {
            "name": "quality_drop_to_teacher",
            "limit": 0.02,
            "value": 0.0,
            "passed": True,
            "outcome": "pass",
            "bounds": [-0.01, 0.013],
            "confidence": 0.95,
        },
    ]
    report["verdict"] = "fail"
    report["stages"][-1] |= {"notes": [], "latency": report["stages"][0]["latency"] | {"ratio_to_teacher": 0.5}}
    report["stages"][-1]["quality"] |= {"n": 269, "groups": 2}
    write_html(parsed(report, Report), file, kept)
    return report, file.read_text()


def test_a_page_stays_until_what_it_shows_changes(finished, kept, tmp_path):
    file = tmp_path / "x.html"

    def drawn(change=lambda report: None):
        report = copy.deepcopy(finished.report)
        change(report)
        before = file.read_text() if file.exists() else ""
        write_html(parsed(report, Report), file, kept)
        return file.read_text() != before

    def again(report):
        for stage in report["stages"]:
            stage |= {"status": "cached", "seconds": 0.0}
        report["provenance"] |= {"started": "2031-01-01T00:00:00Z", "command": "mmedge run x.yaml"}

    assert drawn() and not drawn(again)
    assert drawn(lambda report: report["stages"][0].update(notes=["another runtime"]))
    assert drawn(lambda report: report["stages"][0]["quality"].update(value=0.25))
    assert drawn(lambda report: report["stages"][-1].update(status="skipped"))
    assert drawn(lambda report: report["provenance"].update(code_sha256="0" * 64))
    file.write_text("cut off")
    assert drawn()


def test_what_a_user_wrote_is_escaped(changed):
    _, page = changed
    assert "<script>alert" not in page and "<b>bold</b>" not in page and "&lt;script&gt;" in page


def test_a_report_with_a_skipped_stage_and_without_controls_or_latency_is_drawn(finished, kept, tmp_path, capsys):
    report = copy.deepcopy(finished.report)
    report["controls"] = []
    report["stages"][-1] = {"stage": "export-tensorrt", "status": "skipped", "gates": [], "notes": ["not installed"]}
    for stage in report["stages"]:
        stage.pop("latency", None)
        stage.pop("sensitivity", None)
        stage.pop("pruning", None)
        stage.pop("learning", None)
    write_html(parsed(report, Report), tmp_path / "x.html", kept)
    assert Page((tmp_path / "x.html").read_text()).svgs == 12  # what needs latency is not there
    print_report(parsed(report, Report))
    said = capsys.readouterr()
    assert said.out == "" and "skipped" in said.err


def test_a_failed_gate_shows_on_the_page_and_in_the_table(changed, capsys):
    report, page = changed
    assert "0.99" in page
    print_report(parsed(report, Report))
    said = capsys.readouterr().err
    assert "FAILED teacher: quality is 0.5, limit 0.99" in said and "verdict: fail" in said and "not measured" in said


def test_the_table_of_gates_tells_of_each_its_verdict_value_bounds_and_limit(changed):
    report, page = changed
    table = page.split('<table class="gates">')[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in table.split("<tr>")[2:]]
    stage = report["stages"][0]["stage"]
    assert rows == [
        [stage, "quality", "failed", "0.5", "0.99", ""],
        [stage, "latency_p50_ms", "failed", "not measured", "1", ""],
        [stage, "ece", "passed", "0.0625 [0.05, 0.075]", "0.1", "jackknife, n = 1,269, 0.95"],
        [stage, "subset_drop.audio", "cannot tell: about 2,400 samples would", "0.02 [-0.01, 0.05]", "0.03", ""],
        [stage, "quality_drop_to_teacher", "passed", "0 [-0.01, 0.013]", "0.02", ", 0.95"],
    ]
    words = "with 95 % confidence teacher loses at most 0.013 against its teacher, and 0.02 is allowed: it is not inferior by"
    assert words in page


def test_a_log_of_three_modalities_cuts_no_figure_away(finished, capsys):
    report = copy.deepcopy(finished.report)
    for stage in report["stages"]:
        stage["subsets"] |= {f"{name}+temperature_sensors": 0.123 for name in stage["subsets"]}
    print_report(parsed(report, Report))
    said = capsys.readouterr().err
    assert (
        "…" not in said
        and "audio+temperature_sensors" in said
        and f"{report['stages'][0]['quality']['value']:.3f} [" in said
    )


@pytest.mark.parametrize(("count", "said"), [(0, "0"), (999, "999"), (1500, "1.5k"), (3_720_000, "3.72M"), (2e9, "2G")])
def test_counts_are_short(count, said):
    assert short(count) == said


def test_the_page_and_the_table_say_which_student_ships(finished, text, capsys):
    said = finished.stage("distill")["decision"]["said"]
    assert said[1:].split(":")[0] in text
    print_report(parsed(finished.report, Report))
    assert f"distill: {said}" in " ".join(capsys.readouterr().err.split())


def test_a_student_a_subset_is_drawn_beside_the_other_controls(finished, kept, tmp_path, capsys):
    report = copy.deepcopy(finished.report)
    alone = {**report["controls"][0], "name": "alone-image", "notes": ["holds: no more than 0.02 below"]}
    report["controls"].append(alone)
    write_html(parsed(report, Report), tmp_path / "x.html", kept)
    page = (tmp_path / "x.html").read_text()
    assert page.count("alone-image") >= 2 and "Holds: no more than 0.02 below" in page
    print_report(parsed(report, Report))
    assert "alone-image: gain" in capsys.readouterr().err


def test_a_run_without_gates_is_not_shown_as_one_that_passed_them(finished, text, kept, tmp_path, capsys):
    assert "not judged: no gate was judged" in text and 'class="verdict pass"' not in text
    report = copy.deepcopy(finished.report)
    print_report(parsed(report, Report))
    assert "verdict: not judged: the recipe asks nothing (gates: none)" in capsys.readouterr().err
    report["verdict"] = "pass"
    report["stages"][0]["gates"] = [{"name": "quality", "limit": 0.1, "value": 0.5, "passed": True}]
    write_html(parsed(report, Report), tmp_path / "x.html", kept)
    assert 'class="verdict pass">pass<' in (tmp_path / "x.html").read_text()


def test_the_page_says_of_how_many_groups_a_figure_is(changed):
    assert "n = 269 in 2 groups" in changed[1]


def test_what_was_decided_of_a_precision_stands_before_the_figures_of_its_subsets(text):
    """Of three modalities there are seven subsets: the verdict was beyond the right edge."""
    heads = re.search(r"<tr><th>precision</th>.*?</tr>", text).group()
    assert heads.index("verdict") < heads.index("image")


def test_a_name_that_looks_like_markup_is_that_name(finished, capsys):
    report = copy.deepcopy(finished.report)
    report["data"]["source"] = "[/x][bold]m[/].csv"
    report["stages"][0]["stage"] = "[red]teacher :smile:"
    print_report(parsed(report, Report))
    said = capsys.readouterr().err
    assert "[/x][bold]m[/].csv" in said and "[red]teacher :smile:" in said


def test_features_of_numbers_are_coloured_by_their_value_and_rare_labels_share_a_colour():
    x, numbers = [float(k) for k in range(30)], [f"{k / 7:.4g}" for k in range(30)]
    by_value = embedding.draw(EmbeddingRecord(place="fusion", x=x, y=x, labels=[*numbers[:29], "?"]))
    assert by_value.count("<use") >= 29 and "target" in by_value and "other labels" not in by_value
    by_label = embedding.draw(EmbeddingRecord(place="fusion", x=x, y=x, labels=numbers, alike=0.0, alike_ci95=(0, 0.1)))
    assert "other labels" in by_label and numbers[0] in by_label
