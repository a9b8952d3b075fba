import json
from dataclasses import replace
from io import StringIO

import pytest
from common.runs import files_of, quiet, write_bert
from rich.console import Console

from mpt.base.errors import CheckpointError, DataError, MptError
from mpt.experiments.evaluate import evaluate
from mpt.serving.saved import open_saved
from mpt.training.checkpoint import list_checkpoints


def run(world, *, model=None, manifest="mixture.yaml", tasks=(), split="dev", out=None, backbone=None, console=None):
    return evaluate(
        model or world.run,
        world.data / manifest,
        tasks=tasks,
        split=split,
        out=out,
        backbone=backbone,
        console=console or quiet(),
    )


def edit(world, change):
    path = world.data / "mixture.yaml"
    content = json.loads(path.read_text())
    change(content["tasks"])
    path.write_text(json.dumps(content))


def test_scores_are_those_of_training(world):
    written = json.loads((world.run / "results.json").read_text())["dev"]
    report = run(world)
    assert [one.task for one in report.tasks] == ["people", "places", "words"]
    assert {one.task: one.score.to_json() for one in report.tasks} == written


def test_the_best_checkpoint_of_a_run_is_scored_and_any_other_can_be(world):
    results = json.loads((world.run / "results.json").read_text())
    assert run(world).about["checkpoint"].endswith(f"step-{results['best_step']:08d}")
    records = [json.loads(line) for line in (world.run / "metrics.jsonl").read_text().splitlines()]
    scores = {it["step"]: it["dev/people/span_f1"] for it in records if it["kind"] == "dev"}
    for folder in list_checkpoints(world.run / "checkpoints"):
        report = run(world, model=folder, tasks=("people",))
        assert report.tasks[0].score.primary == pytest.approx(scores[int(folder.name[5:])], abs=1e-6)


def test_the_test_split_and_a_choice_of_tasks(world):
    report = run(world, tasks=("words",), split="test")
    (one,) = report.tasks
    assert (one.task, one.split, one.score.metric) == ("words", "test", "accuracy")
    assert list(one.digests) == ["words/train.txt", "words/test.txt"], "what was read, and what labels come from"


def test_the_report_is_printed_and_written(world, tmp_path):
    console = Console(file=StringIO(), width=120)
    report = run(world, out=tmp_path / "out", console=console)
    assert json.loads((tmp_path / "out" / "evaluation-dev.json").read_text()) == json.loads(
        json.dumps(report.to_json())
    )
    assert "people" in (tmp_path / "out" / "evaluation-dev.md").read_text()
    assert "people" in console.file.getvalue()


def test_scoring_changes_nothing_in_the_run(world):
    before = files_of(world.run)
    run(world)
    assert files_of(world.run) == before


def test_another_label_map_is_refused_with_both(own_world):
    edit(own_world, lambda tasks: tasks["people"].update(label_map={"PER": "person"}))
    with pytest.raises(CheckpointError) as caught:
        run(own_world)
    message = str(caught.value)
    assert 'task "people": the label map differs from the manifest\'s: labels: checkpoint' in message
    assert "['O', 'B-PER', 'I-PER'], now ['O', 'B-person', 'I-person']" in message
    assert "set labels and label_map in the manifest" in message


def test_labels_in_another_order_are_refused(own_world):
    labels = {name: facts["labels"] for name, facts in open_saved(own_world.run).tasks.items()}
    assert labels["places"][1] == "B-PER"
    assert labels["words"][0] == "ADP"
    edit(own_world, lambda tasks: tasks["places"].update(labels=["LOC", "PER"]))
    edit(own_world, lambda tasks: tasks["words"].update(labels=["PROPN", "ADP"]))
    with pytest.raises(CheckpointError) as caught:
        run(own_world)
    assert len(caught.value.problems) == 2, "all tasks at once"


def test_an_unknown_task_is_refused(world):
    with pytest.raises(MptError, match=r'no task "peple"\. It has: people, places, words\. Did you mean "people"\?'):
        run(world, tasks=("peple",))
    with pytest.raises(MptError, match=r'no head for task "firms": this model has people, places, words\.'):
        run(world, manifest="target.yaml", tasks=("firms",))


def test_a_manifest_without_a_task_of_the_model_is_refused(world):
    with pytest.raises(CheckpointError, match=r"no task in common with .*the model has people, places, words, the"):
        run(world, manifest="target.yaml")


def test_a_split_that_is_not_declared_is_refused(own_world):
    edit(own_world, lambda tasks: tasks["words"]["files"].pop("test"))
    with pytest.raises(DataError, match=r"no test split: words\. Add files\.test to the manifest or choose --split"):
        run(own_world, split="test")


def test_another_backbone_is_refused(world, tmp_path):
    other = write_bert(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match=r"backbone\.weights_sha256: checkpoint"):
        run(world, backbone=str(other))


def test_a_backbone_that_is_gone_is_told(world, tmp_path):
    with pytest.raises(MptError, match=r'backbone "\./gone": no such folder'):
        run(world, backbone="./gone")


def test_a_moved_backbone_gives_the_same_scores(world, tmp_path):
    import shutil

    moved = replace(world, backbone=shutil.copytree(world.backbone, tmp_path / "moved"))
    assert run(world, backbone=str(moved.backbone)).tasks == run(world).tasks
