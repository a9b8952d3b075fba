import json
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from mpt.training.runlog import METRICS_FILE, RunLog

METRICS = {"train/loss": 0.123456789, "perf/pieces_per_second": 1234.5}


def accelerator(*, main=True, trackers=()):
    logged = []
    return SimpleNamespace(
        is_main_process=main,
        trackers=list(trackers),
        logged=logged,
        log=lambda metrics, step: logged.append((step, metrics)),
    )


def make(folder, *, steps=6, step=0, title="run", terminal=False, ranks=None):
    console = Console(file=StringIO(), force_terminal=terminal, width=120, no_color=True)
    return RunLog(folder, console=console, accelerator=ranks or accelerator(), steps=steps, step=step, title=title)


def records(folder):
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def said(log):
    return log.console.file.getvalue().splitlines()


def test_every_step_and_evaluation_is_a_record(tmp_path):
    log = make(tmp_path)
    log.step(1, METRICS)
    log.evaluation(1, {"dev/ner/span_f1": 0.5, "dev/score": 0.5})
    assert records(tmp_path) == [
        {"step": 1, "kind": "train", "train/loss": 0.123457, "perf/pieces_per_second": 1234.5},
        {"step": 1, "kind": "dev", "dev/ner/span_f1": 0.5, "dev/score": 0.5},
    ]


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_resuming_leaves_neither_gap_nor_double(tmp_path, cut):
    first = make(tmp_path)
    for step in range(1, 6):
        first.step(step, METRICS)
        if step % 2 == 0:
            first.evaluation(step, {"dev/score": 0.5})
    path = tmp_path / METRICS_FILE
    path.write_bytes(path.read_bytes()[: -cut or None])  # the crash came in the middle of a line
    again = make(tmp_path, step=4)
    for step in (5, 6):
        again.step(step, METRICS)
    again.evaluation(6, {"dev/score": 0.5})
    assert [(it["step"], it["kind"]) for it in records(tmp_path)] == [
        (1, "train"),
        (2, "train"),
        (2, "dev"),
        (3, "train"),
        (4, "train"),
        (4, "dev"),
        (5, "train"),
        (6, "train"),
        (6, "dev"),
    ]


def test_a_new_run_drops_what_an_unfinished_one_left(tmp_path):
    make(tmp_path).step(1, METRICS)
    make(tmp_path, step=0)
    assert records(tmp_path) == []


def test_plain_lines_where_there_is_no_terminal(tmp_path):
    log = make(tmp_path, steps=100)
    for step in range(1, 101):
        log.step(step, METRICS)
    lines = said(log)
    assert len(lines) == 20
    assert lines[-1].startswith("run: step 100/100, loss 0.123, 1,234 pieces/s, ")
    assert lines[-1].endswith(" min left")


def test_the_last_step_is_told_whatever_the_interval(tmp_path):
    log = make(tmp_path, steps=47)
    for step in range(1, 48):
        log.step(step, METRICS)
    assert said(log)[-1].startswith("run: step 47/47")
    assert len(said(log)) <= 25


def test_a_bar_on_a_terminal(tmp_path):
    log = make(tmp_path, terminal=True)
    log.step(3, METRICS)
    log.close()
    assert "step 3/6" not in log.console.file.getvalue()
    assert "3/6" in log.console.file.getvalue()
    assert "loss 0.123" in log.console.file.getvalue()


def test_the_bar_of_a_resumed_run_starts_where_it_stopped(tmp_path):
    log = make(tmp_path, terminal=True, step=4)
    log.close()
    assert "4/6" in log.console.file.getvalue()


def test_without_a_title_nothing_is_shown_and_everything_recorded(tmp_path):
    log = make(tmp_path, title=None)
    log.step(6, METRICS)
    assert said(log) == []
    assert len(records(tmp_path)) == 1


def test_markup_in_a_message_is_text(tmp_path):
    log = make(tmp_path)
    log.say("[bold]3 of [/bold]")
    assert said(log) == ["[bold]3 of [/bold]"]


def test_other_ranks_are_silent(tmp_path):
    log = make(tmp_path, ranks=accelerator(main=False))
    log.step(6, METRICS)
    log.say("hello")
    assert said(log) == []
    assert not (tmp_path / METRICS_FILE).exists()


def test_without_a_folder_there_is_no_file(tmp_path):
    make(None).step(1, METRICS)
    assert list(tmp_path.iterdir()) == []


def test_trackers_get_the_same_metrics(tmp_path):
    ranks = accelerator(trackers=["one"])
    log = make(tmp_path, ranks=ranks)
    log.step(1, METRICS)
    log.evaluation(1, {"dev/score": 0.5})
    assert ranks.logged == [(1, METRICS), (1, {"dev/score": 0.5})]
