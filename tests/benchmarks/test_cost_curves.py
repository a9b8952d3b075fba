"""The process of one point, on a tiny backbone, and what the points come to."""

import json

import pytest
from common.backbones import tiny_backbone

import cost_curves
from cost_point import LABELS, Point, measure_point, synthetic_task
from mpt.base.errors import ConfigError
from mpt.base.settings import TrainingSettings


@pytest.mark.parametrize("tasks", [1, 6])
def test_a_point_trains_full_steps(tmp_path, tasks):
    folder = tiny_backbone(tmp_path, "bert", max_position_embeddings=512)
    cost = measure_point(Point(backbone=str(folder), device="cpu", tasks=tasks, sentence_pieces=32, steps=3))
    training = TrainingSettings()
    positions = training.tokens_per_micro_batch * training.micro_batches
    assert 0.8 * positions < cost.pieces <= positions
    assert 0 < cost.plan_milliseconds / 1000 < cost.seconds
    assert cost.peak_memory_mib > 0


def test_sentences_have_one_length():
    """Each word is one piece of an English BERT; two more are special."""
    task = synthetic_task(1, 5, 24)
    assert task.labels == LABELS and len(task.splits["train"]) == 5
    assert {len(sentence.words) for sentence in task.splits["train"]} == {22}
    assert "B-Y" in {tag for sentence in task.splits["train"] for tag in sentence.tags}


def test_ratios_are_taken_within_a_repeat(monkeypatch):
    monkeypatch.setattr(cost_curves, "CURVES", {"tasks": (1, 10)})
    seconds = iter([1.0, 2.0, 10.0, 11.0, 3.0, 3.3])

    def answer(script, point, environment):
        assert script == "cost_point.py" and set(json.loads(point)) == {"backbone", "device", "tasks"}
        return {"seconds": next(seconds), "plan_milliseconds": 1.0, "pieces": 2048, "peak_memory_mib": 100}

    monkeypatch.setattr(cost_curves, "run_script", answer)
    first, last = cost_curves.measure_curve("tasks", "x", "cpu", 3)
    assert (first.times_first, last.times_first) == (1.0, 1.1)
    assert (first.milliseconds, last.milliseconds) == (3000.0, 3300.0)
    assert cost_curves.table("tasks", [first, last], 3).row_count == 2


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="--device cuda"):
        measure_point(Point(backbone="x", device="cuda"))


def test_an_unknown_curve_is_refused():
    with pytest.raises(ConfigError, match=r'^--curves "task" is not one of tasks, .* Did you mean "tasks"\?'):
        cost_curves.run(curves="task")
