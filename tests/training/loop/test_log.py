"""The log of a training: one row an epoch, in every artifact of a stage that trained."""

import csv

from mmedge.training.loop.log import CSV, csv_of, csv_read


def test_the_csv_has_a_row_an_epoch_with_the_figures_of_the_history():
    history = [{"epoch": 1, "loss": 0.5, "quality": 0.25}, {"epoch": 2, "loss": 1 / 3, "quality": 0.5}]
    rows = list(csv.DictReader(csv_of(history).splitlines()))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == history
    assert csv_of([]) == ""


def test_every_trained_stage_has_its_log_in_its_artifact(finished):
    for stage in ("teacher", "distill", "prune"):
        rows = list(csv.DictReader(finished.artifact(stage).file(CSV).open()))
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert set(rows[0]) == {"epoch", "loss", "learning_rate", "seconds", "waiting", "quality", "selection"}


def test_a_history_that_a_newer_version_went_on_with_keeps_all_its_columns(tmp_path):
    history = [{"epoch": 1.0, "loss": 0.5}, {"epoch": 2.0, "loss": 0.25, "waiting": 0.125}]
    (tmp_path / "training.csv").write_text(csv_of(history))
    assert csv_read(tmp_path / "training.csv") == history
