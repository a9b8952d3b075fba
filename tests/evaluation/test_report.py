import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from mpt.data.families.metrics import score
from mpt.evaluation.report import Report, TaskReport, print_report

LABELS = ("O", "B-PER", "I-PER", "B-creative-work", "I-creative-work")
DIGEST = "0123456789abcdef" * 4


def task_report(task="wnut17", metric="span_f1", gold=None, predicted=None, labels=LABELS, **changes):
    gold = gold or [["B-PER", "I-PER", "O"], ["B-PER", "O", "B-creative-work"]]
    predicted = predicted or [["B-PER", "I-PER", "O"], ["B-creative-work", "O", "O"]]
    values = {"split": "test", "windows": 3, "unseen_words": 0, "digests": {f"{task}/test.conll": DIGEST}, **changes}
    return TaskReport(task=task, score=score(metric, gold, predicted, labels), **values)


def pos_report():
    return task_report("ud_ewt", "accuracy", [["DET", "NOUN"]], [["DET", "VERB"]], ("DET", "NOUN", "VERB"))


@pytest.fixture
def report():
    return Report(about={"checkpoint": "runs/a/step-300"}, tasks=(task_report(), pos_report()))


def printed(report, **console):
    file = io.StringIO()
    print_report(report, Console(file=file, **console))
    return file.getvalue()


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_json_is_complete_and_reads_back(report):
    written = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert written["about"] == {"checkpoint": "runs/a/step-300"}
    assert written["mean"] == pytest.approx((0.4 + 0.5) / 2)
    first, second = written["tasks"]
    assert (first["task"], first["split"], first["metric"], first["primary"]) == ("wnut17", "test", "span_f1", 0.4)
    assert first["files"] == {"wnut17/test.conll": DIGEST}
    assert (first["windows"], first["unseen_words"], first["words"], first["sentences"]) == (3, 0, 6, 2)
    assert first["types"]["PER"]["support"] == 2
    assert first["errors"]["missed"] == 1
    assert second["tags"]["NOUN"]["recall"] == 0


def test_equal_results_give_equal_bytes(report):
    again = Report(
        about={"checkpoint": "runs/a/step-300"},
        tasks=(task_report(digests=dict(reversed([("wnut17/test.conll", DIGEST)]))), pos_report()),
    )
    assert json.dumps(again.to_json()) == json.dumps(report.to_json())
    assert again.to_markdown() == report.to_markdown()
    assert printed(again) == printed(report)


def test_files_are_sorted_whatever_the_order_they_come_in():
    files = [("b.txt", "1" * 64), ("a.txt", "2" * 64)]
    one, other = (Report(about={}, tasks=(task_report(digests=dict(order)),)) for order in (files, files[::-1]))
    assert list(one.to_json()["tasks"][0]["files"]) == ["a.txt", "b.txt"]
    assert one.to_markdown() == other.to_markdown()


@pytest.mark.parametrize("width", [80, 100])
def test_terminal_shows_every_figure_in_one_row(report, width):
    lines = rows(printed(report, width=width))
    assert ["wnut17", "span_f1", "40.00", "50.00", "33.33", "33.33", "(2)", "3"] in lines
    assert ["ud_ewt", "accuracy", "50.00", "50.00", "(2)", "2"] in lines
    assert ["mean", "of", "2", "tasks", "45.00"] in lines
    assert ["PER", "100.00", "50.00", "66.67", "2", "1", "1"] in lines
    assert ["PER", "creative-work", "1"] in lines
    assert ["creative-work", "(none)", "1"] in lines
    assert ["wnut17", "1", "1", "0", "0", "1", "0"] in lines
    assert ["wnut17", "test", "2", "6", "3", "0"] in lines
    assert ["wnut17/test.conll", DIGEST[:16]] in lines
    assert "Words not seen by the model: 0. Every word of the split is scored." in printed(report, width=width)


def test_pipe_gets_plain_ascii(report):
    text = printed(report)
    assert text.isascii()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_f1_of_one_label_is_told_with_its_label_and_with_accuracy():
    gold, predicted = [["1"], ["1"], ["0"], ["0"]], [["1"], ["0"], ["0"], ["0"]]
    one = TaskReport(
        task="mrpc",
        split="test",
        score=score("f1", gold, predicted, ("0", "1"), positive="1"),
        windows=4,
        unseen_words=0,
        digests={},
    )
    text = printed(Report(about={}, tasks=(one,)))
    assert ["mrpc", "f1", "66.67", "100.00", "50.00", "73.33", "(2)", "4"] in rows(text)
    assert 'mrpc: F1 of the label "1". Accuracy: 75.00.' in text
    none = replace(one, score=score("f1", [["0"]], [["0"]], ("0", "1"), positive="1"))
    assert 'label "1", which neither gold nor predictions hold: 0 by definition. Acc' in printed(
        Report(about={}, tasks=(none,))
    )


def test_real_terminal_gets_bold_headers(report):
    assert "\x1b[1m" in printed(report, force_terminal=True, width=100)


def test_long_names_fold_and_figures_do_not():
    text = printed(Report(about={}, tasks=(task_report("x" * 70),)), width=80)
    assert any(
        line.split()[-7:] == ["span_f1", "40.00", "50.00", "33.33", "33.33", "(2)", "3"] for line in text.splitlines()
    )
    assert max(map(len, text.splitlines())) <= 100


def test_nothing_to_score_says_so_and_a_label_without_gold_is_not_zero():
    report = Report(about={}, tasks=(task_report(gold=[["O"]], predicted=[["O"]]),))
    text = printed(report)
    assert ["wnut17", "span_f1", "100.00*", "n/a", "n/a", "n/a", "(0)", "0"] in rows(text)
    assert "* Neither gold nor predictions hold anything: 100 by definition." in text
    assert ["PER", "n/a", "n/a", "n/a", "0", "0", "0"] in rows(text)
    assert "by definition" not in printed(Report(about={}, tasks=(task_report(),)))


def test_unseen_words_are_counted_over_tasks():
    report = Report(about={}, tasks=(task_report(unseen_words=2), task_report("b", unseen_words=3)))
    assert "Words not seen by the model: 5." in printed(report)


def test_one_task_has_no_mean_row():
    assert "mean of" not in printed(Report(about={}, tasks=(task_report(),)))


def test_confusions_are_the_ten_most_frequent():
    gold = [[f"G{number:02}"] for number in range(12) for _ in range(number + 1)]
    report = Report(
        about={}, tasks=(task_report(metric="accuracy", gold=gold, predicted=[["X"]] * len(gold), labels=()),)
    )
    shown = [line for line in rows(printed(report)) if len(line) == 3 and line[1] == "X"]
    assert shown == [[f"G{number:02}", "X", str(number + 1)] for number in range(11, 1, -1)]


def test_markdown_tables_are_whole_and_names_are_escaped():
    gold = [["a|b", "[red]x[/red]", "*"]]
    report = Report(
        about={"run_name": "a|b"}, tasks=(task_report(metric="accuracy", gold=gold, predicted=gold, labels=()),)
    )
    markdown = report.to_markdown()
    assert markdown.startswith("# Evaluation\n\n- run\\_name: a\\|b\n")
    assert "| a\\|b | 100.00 | 100.00 | 100.00 | 1 | 1 | 1 |" in markdown
    tables = [line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")]
    assert set(tables) == {8, 7, 3}
    assert markdown.endswith("|\n")
    assert "\n\n\n" not in markdown


def test_markup_and_control_characters_in_labels_are_shown_and_not_obeyed():
    gold = [["[red]x[/red]", "\x1b[2J"]]
    report = Report(about={}, tasks=(task_report(metric="accuracy", gold=gold, predicted=gold, labels=()),))
    text = printed(report, force_terminal=True, width=100)
    assert "[red]x[/red]" in text
    assert "\x1b[2J" not in text
    assert "\\x1b[2J" in text
    assert "\x1b" not in report.to_markdown()
