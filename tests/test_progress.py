"""Progress for logs, and for a notebook's cells."""

from mmedge import progress


def test_the_time_left_counts_what_was_done_since_a_task_was_come_back_to(capsys, monkeypatch):
    now = iter([0.0, 0.0, 1.0, 1.0, 61.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    lines = progress.Lines()
    for task, done in (("fit", 0), ("answers", 0), ("fit", 50), ("fit", 60)):
        lines.step(task, done, 100)
    said = capsys.readouterr().err.splitlines()
    assert said == ["fit: 0/100", "answers: 0/100", "fit: 50/100", "fit: 60/100, 240 s left"]


def test_a_notebook_shows_a_bar_a_task_by_tqdm(capsys):
    from tqdm import tqdm

    shown = progress.Notebook(tqdm)
    shown.step("fit", 1, 4, "epoch 1")
    assert shown._bars["fit"].n == 1 and shown._bars["fit"].total == 4
    shown.say("a line that stays")
    shown.step("fit", 4, 4)
    shown.step("export", 0, 2)
    shown.close()
    said = capsys.readouterr()
    assert "fit" in said.err and "epoch 1" in said.err and "a line that stays" in said.out + said.err
    assert list(shown._bars) == ["export"], "what has ended is taken away"
