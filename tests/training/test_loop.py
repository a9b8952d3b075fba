import json
from io import StringIO

import pytest
import torch
from common.runs import changed, make_parts, state_bytes, transfer_settings
from rich.console import Console

from mpt.base.settings import LowRankSettings, PromptSettings
from mpt.model.state.bank import TaskState
from mpt.model.state.input_prompt import InputPrompt
from mpt.model.state.starts import StatePlan, fresh_state
from mpt.model.state.weights import Weights
from mpt.training.checkpoint import best, latest, list_checkpoints, load_checkpoint
from mpt.training.loop import Run, selection_score, train
from mpt.training.runlog import RunLog


def planned(*parts, **prompt):
    """A state from its plan, its prompt from noise."""
    settings = PromptSettings(length=3, dropout=0.1, initialisation="normal_0.02", hidden_size=8, **prompt)
    plan = StatePlan(parts=parts, prompt=settings, low_rank=LowRankSettings(rank=2))
    return lambda backbone: fresh_state(plan, backbone, [], seed=0)


TRAINED = {
    "prompt": None,
    "prompt behind a network": planned("prompt", reparameterisation="mlp"),
    "low-rank": planned("low_rank"),
    "prompt and low-rank": planned("prompt", "low_rank"),
    "input": lambda backbone: TaskState([InputPrompt(torch.ones((3, 32)), dropout=0.1)]),
    "input behind a network": planned("input", reparameterisation="lstm"),
    "weights": lambda backbone: TaskState([Weights(backbone)]),
    "nothing": lambda backbone: TaskState(),
}
"""What a run trains besides heads."""


class Script:
    """Scores in a given order, and what was asked for."""

    def __init__(self, scorer, scores):
        self.scorer = scorer
        self.scores = scores
        self.limits = []
        self.seen = []

    def __call__(self, limit):
        self.limits.append(limit)
        self.seen.append(state_bytes(self.scorer))
        score = self.scores[len(self.seen) - 1]
        return score if isinstance(score, dict) else dict.fromkeys(("people", "places", "words"), score)


def make_run(world, folder, scores, *, step=0, dropout=0.1, trained="prompt", **changes):
    """A run whose dev scores are given; an evaluation every step unless told otherwise."""
    parts = make_parts(world, dropout=dropout, state=TRAINED[trained])
    settings = changed(transfer_settings(), **{"evaluation__every_steps": 1, "training__steps": len(scores), **changes})
    if folder is not None:
        folder.mkdir(exist_ok=True)
    log = RunLog(
        folder,
        console=Console(file=StringIO(), width=200),
        accelerator=parts.accelerator,
        steps=settings.training.steps,
        step=step,
        title=None,
    )
    script = Script(parts.scorer, scores)
    return Run(
        scorer=parts.scorer,
        tasks=parts.tasks,
        plan=parts.plan(),
        settings=settings,
        accelerator=parts.accelerator,
        evaluate=script,
        log=log,
        folder=folder,
        identity={"stage": "test"},
    )


def test_the_final_weights_are_those_of_the_best_evaluation(world, tmp_path):
    run = make_run(world, tmp_path, [0.1, 0.4, 0.3, 0.2])
    progress = train(run)
    assert progress.best == 1
    assert len(set(map(str, run.evaluate.seen))) == 4, "every step has other weights"
    assert state_bytes(run.scorer) == run.evaluate.seen[1]


def test_of_equal_scores_the_earliest_is_the_best(world, tmp_path):
    run = make_run(world, tmp_path, [0.1, 0.4, 0.4, 0.4])
    assert train(run).best == 1
    assert state_bytes(run.scorer) == run.evaluate.seen[1]
    assert best(tmp_path).name == "step-00000002"


def test_memory_and_disk_agree_on_the_best(world, tmp_path):
    run = make_run(world, tmp_path, [0.3, 0.6, 0.1, 0.6])
    train(run)
    other = make_run(world, None, [])
    other.scorer.restore(load_checkpoint(best(tmp_path)).tensors)
    assert state_bytes(other.scorer) == state_bytes(run.scorer)


@pytest.mark.parametrize(
    ("select_by", "chosen"),
    [("macro_mean", 0), ("min", 1), ("places", 2)],
)
def test_what_to_select_by(world, tmp_path, select_by, chosen):
    scores = [
        {"people": 1.0, "places": 0.0, "words": 0.9},
        {"people": 0.5, "places": 0.5, "words": 0.5},
        {"people": 0.0, "places": 0.9, "words": 0.0},
    ]
    run = make_run(world, tmp_path, scores, evaluation__select_by=select_by)
    assert train(run).best == chosen
    assert state_bytes(run.scorer) == run.evaluate.seen[chosen]


def test_the_mean_counts_every_task_once():
    scores = {"a": 0.2, "b": 0.4, "c": 0.9}
    assert selection_score(scores, "macro_mean") == pytest.approx(0.5)
    assert selection_score(scores, "min") == 0.2
    assert selection_score(scores, "c") == 0.9


def test_patience_stops_early(world, tmp_path):
    run = make_run(world, tmp_path, [0.1, 0.5, 0.4, 0.5, 0.9, 0.9], evaluation__patience=2)
    progress = train(run)
    assert (progress.step, progress.stopped_early, progress.best) == (4, True, 1)
    assert state_bytes(run.scorer) == run.evaluate.seen[1]
    assert "step 4: no better dev score in 2 evaluations; stopping early" in run.log.console.file.getvalue()


def test_a_better_score_renews_the_patience(world, tmp_path):
    run = make_run(world, tmp_path, [0.1, 0.05, 0.2, 0.15, 0.3, 0.3], evaluation__patience=2)
    assert not train(run).stopped_early


def test_a_run_that_stopped_early_stays_stopped(world, tmp_path):
    changes = {"evaluation__patience": 1, "training__steps": 5}
    train(make_run(world, tmp_path, [0.5, 0.4, 0.9, 0.9, 0.9], **changes))
    again = make_run(world, tmp_path, [], step=2, **changes)
    progress = train(again, load_checkpoint(latest(tmp_path)))
    assert (progress.step, again.evaluate.seen) == (2, [])
    saved, now = load_checkpoint(best(tmp_path)).tensors, again.scorer.tensors()
    assert all(torch.equal(saved[part][name], value) for part, own in now.items() for name, value in own.items())


def test_evaluations_come_at_their_interval_and_at_the_end(world, tmp_path):
    run = make_run(world, tmp_path, [0.1, 0.2, 0.3], training__steps=5, evaluation__every_steps=2)
    progress = train(run)
    assert [entry["step"] for entry in progress.history] == [2, 4, 5]
    assert progress.scores == pytest.approx([0.1, 0.2, 0.3])


def test_interval_evaluations_may_score_a_part_of_dev(world, tmp_path):
    run = make_run(world, tmp_path, [0.1, 0.2], evaluation__dev_limit=7)
    train(run)
    assert run.evaluate.limits == [7, 7]


def test_checkpoints_come_at_evaluations_and_at_their_own_interval(world, tmp_path):
    changes = {"training__steps": 6, "evaluation__every_steps": 4, "checkpoints__every_steps": 3}
    run = make_run(world, tmp_path, [0.5, 1.0], checkpoints__keep_last=9, **changes)
    train(run)
    steps = [load_checkpoint(folder) for folder in list_checkpoints(tmp_path / "checkpoints")]
    assert [(one.step, one.progress["score"]) for one in steps] == [(3, None), (4, 0.5), (6, 1.0)]


def test_old_checkpoints_go_but_the_best_stays(world, tmp_path):
    run = make_run(world, tmp_path, [0.9, 0.1, 0.2, 0.3, 0.4])
    train(run)
    names = [folder.name for folder in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000001", "step-00000004", "step-00000005"]


def test_without_a_folder_nothing_is_written(world, tmp_path):
    run = make_run(world, None, [0.2, 0.1])
    train(run)
    assert state_bytes(run.scorer) == run.evaluate.seen[0]
    assert list(tmp_path.iterdir()) == []


def test_the_log_has_every_step_and_every_evaluation(world, tmp_path):
    train(make_run(world, tmp_path, [0.1, 0.2], training__steps=3, evaluation__every_steps=2))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(it["step"], it["kind"]) for it in records] == [
        (1, "train"),
        (2, "train"),
        (2, "dev"),
        (3, "train"),
        (3, "dev"),
    ]
    dev = {"dev/people/span_f1": 0.1, "dev/places/span_f1": 0.1, "dev/words/accuracy": 0.1, "dev/score": 0.1}
    assert records[2] == {"step": 2, "kind": "dev", **dev}
    assert {"train/loss", "optim/gradient_norm", "optim/schedule", "perf/pieces_per_second"} <= set(records[0])


@pytest.mark.parametrize("schedule", ["linear", "epoch"])
def test_the_learning_rate_is_a_function_of_the_step(world, tmp_path, schedule):
    changes = {"optimizer__schedule": schedule, "optimizer__warmup_steps": 2, "optimizer__gamma": 0.5}
    train(make_run(world, tmp_path / "whole", [0.1] * 4, **changes))
    whole = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    factors = [it["optim/schedule"] for it in whole if it["kind"] == "train"]
    assert factors[:2] == [0.5, 1.0]
    assert factors[-1] == (0.5 if schedule == "linear" else 1.0)


@pytest.mark.parametrize("trained", TRAINED)
def test_loading_a_checkpoint_and_going_on_is_the_same_as_never_stopping(world, tmp_path, trained):
    scores = [0.1, 0.3, 0.2, 0.4]
    whole = make_run(world, tmp_path / "whole", scores, trained=trained)
    train(whole)
    first = make_run(world, tmp_path / "parts", scores, trained=trained)
    first.evaluate.scores = [*scores[:2], None]  # the third evaluation crashes
    with pytest.raises(TypeError):
        train(first)
    second = make_run(world, tmp_path / "parts", scores, step=2, trained=trained)
    second.evaluate.scores = scores[2:]
    progress = train(second, load_checkpoint(latest(tmp_path / "parts")))
    assert progress.scores == pytest.approx(scores)
    assert [entry["step"] for entry in progress.history] == [1, 2, 3, 4]
    for name in ("step-00000003", "step-00000004"):
        one, other = (tmp_path / run / "checkpoints" / name for run in ("whole", "parts"))
        assert bool(load_checkpoint(one).networks) == ("network" in trained)
        for path in one.glob("*.safetensors"):
            assert path.read_bytes() == (other / path.name).read_bytes(), path
        assert (one / "identity.json").read_bytes() == (other / "identity.json").read_bytes()
        # Seconds are measured, everything else is computed.
        straight, resumed = ({**load_checkpoint(folder).progress, "seconds": 0} for folder in (one, other))
        assert straight == resumed
    assert state_bytes(second.scorer) == state_bytes(whole.scorer)


def test_moments_are_restored_also_for_heads_that_were_never_drawn(world, tmp_path):
    run = make_run(world, tmp_path, [0.1])
    train(run)
    drawn = run.tasks[run.plan.step(0)[0].task].task.name
    names = set(load_checkpoint(latest(tmp_path)).optimizer)
    parameters = {name.rsplit("/", 1)[0] for name in names}
    assert parameters == {
        "state.prompt.values",
        *(f"heads.{drawn}.{part}" for part in ("weight", "bias")),
    }
    assert {name.rsplit("/", 1)[1] for name in names} == {"step", "exp_avg", "exp_avg_sq"}
