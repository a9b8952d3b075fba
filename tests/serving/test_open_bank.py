"""Several trained models over one backbone, open as one bank."""

import json
import time

import numpy as np
import pytest
from common.runs import quiet, run_pretrain, write_bert

from mpt.base.errors import CheckpointError, MptError
from mpt.cli import app, main
from mpt.data.example import Sentence
from mpt.data.families.of_task import family_of
from mpt.data.order.batch import collate, mixed
from mpt.evaluation.scoring import Request, label_scores
from mpt.experiments.evaluate import evaluate
from mpt.serving.predictor import Predictor, predict_together
from mpt.serving.saved import OpenBank, open_bank, open_saved

METHODS = {
    "prompt": {"prompt__length": 3},
    "upper": {"prompt__length": 5, "prompt__layers": 1},
    "low-rank": {"low_rank__rank": 2},
    "prompt+low-rank": {"low_rank__rank": 3, "low_rank__targets": "attention"},
    "head": {},
}
TEXTS = [("Ada", "in", "Kiev"), ("Bob", "to", "Lund", "on", "Sony", "of", "Dan"), ("up",)]


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """A run of each method, its tasks called after it."""
    folder = tmp_path_factory.mktemp("bank")
    made = {}
    for name, changes in METHODS.items():
        own = json.loads((world.data / "mixture.yaml").read_text())
        key = name.replace("+", "_")
        own["root"] = str(world.data)
        own["tasks"] = {f"{task}_{key}": spec for task, spec in own["tasks"].items() if task == "places"}
        (folder / f"{key}.yaml").write_text(json.dumps(own))
        method = "prompt" if name == "upper" else name
        run_pretrain(world, folder / key, manifest=folder / f"{key}.yaml", method=method, **changes)
        made[name] = folder / key
    return made


def sentences():
    return [Sentence(words=words, tags=None, path="x", lines=tuple(range(len(words)))) for words in TEXTS]


def alone(run, examples):
    """Scores of a run's only task, opened by itself and not merged."""
    saved = open_saved(run)
    return scores_of(OpenBank(saved, merge=False), [saved.only_task()], examples)[0]


def requests_of(bank, tasks, examples):
    predictors = [Predictor(bank.model(task), task) for task in tasks]
    splits = [family_of(it.spec).encode(examples, bank.scorer.backbone.word_pieces, None)[0] for it in predictors]
    chosen = np.arange(len(examples))
    return [
        Request(slot=it.saved.slot, tasks=(it.task,), split=split, examples=chosen)
        for it, split in zip(predictors, splits, strict=True)
    ]


def scores_of(bank, tasks, examples):
    return [np.concatenate(own) for (own,) in label_scores(bank.scorer, requests_of(bank, tasks, examples))]


def test_a_mixed_batch_of_five_tasks_gives_each_the_scores_it_gets_alone(runs):
    bank = open_bank(list(runs.values()))
    assert len({model.slot for model in bank.tasks.values()}) == len(bank.tasks) == 5
    found = scores_of(bank, list(bank.tasks), sentences())
    for scores, run in zip(found, runs.values(), strict=True):
        np.testing.assert_allclose(scores, alone(run, sentences()), rtol=1e-5, atol=1e-5)


def test_five_tasks_meet_in_one_pass_of_the_backbone(runs, monkeypatch):
    bank, seen = open_bank(list(runs.values())), []
    real = type(bank.scorer).forward
    monkeypatch.setattr(type(bank.scorer), "forward", lambda self, batch: seen.append(batch) or real(self, batch))
    scores_of(bank, list(bank.tasks), sentences())
    assert len(seen) == 1 and {group.slot for group in seen[0].rows} == {0, 1, 2, 3, 4}


def test_states_that_cannot_meet_are_scored_in_batches_of_their_own(world, runs, tmp_path):
    own = json.loads((world.data / "mixture.yaml").read_text()) | {"root": str(world.data)}
    own["tasks"] = {"tuned": own["tasks"]["places"]}
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    run_pretrain(world, tmp_path / "tuned", manifest=tmp_path / "own.yaml", method="fine-tuning")
    paths = [runs["prompt"], tmp_path / "tuned", runs["low-rank"]]
    bank = open_bank(paths)
    found = scores_of(bank, list(bank.tasks), sentences())
    for scores, run in zip(found, paths, strict=True):
        np.testing.assert_allclose(scores, alone(run, sentences()), rtol=1e-5, atol=1e-5)
    pair = requests_of(bank, list(bank.tasks)[:2], sentences())
    batch = mixed([collate(it.split, it.examples, pad=0, tasks=it.tasks, slot=it.slot) for it in pair], pad=0)
    with pytest.raises(MptError, match=r"slot 1 has weights, which all rows of a batch share.*Use a batch for each"):
        bank.scorer(batch)


def test_tasks_that_share_a_state_share_the_pass_over_a_text(world, monkeypatch):
    bank, rows = open_bank([world.run]), []
    real = type(bank.scorer).word_states
    monkeypatch.setattr(
        type(bank.scorer),
        "word_states",
        lambda self, batch, g=None: rows.append(len(batch.slots)) or real(self, batch, g),
    )
    tasks = list(bank.tasks)
    found = scores_of(bank, tasks, sentences())
    assert sum(rows) == len(TEXTS) and len(found) == len(tasks) == 3
    monkeypatch.undo()
    for task, scores in zip(tasks, found, strict=True):
        np.testing.assert_array_equal(scores, scores_of(bank, [task], sentences())[0])


def test_predictions_together_are_those_of_each(runs):
    bank = open_bank(list(runs.values()))
    predictors = [Predictor(bank.model(task), task) for task in bank.tasks]
    together = predict_together(predictors, [sentences()] * len(predictors))
    assert together == [predictor.predict(sentences()) for predictor in predictors]


def test_a_single_model_is_merged_and_unmerged_when_another_comes(runs):
    bank = open_bank([runs["low-rank"]])
    (task,) = bank.tasks
    before = open_saved(runs["low-rank"])
    assert not bank.scorer.bank.meets(0) and before.scorer.bank.meets(0)
    np.testing.assert_allclose(scores_of(bank, [task], sentences())[0], alone(runs["low-rank"], sentences()), atol=1e-4)
    bank.add(runs["prompt"])
    assert bank.scorer.bank.meets(0)
    np.testing.assert_array_equal(scores_of(bank, [task], sentences())[0], alone(runs["low-rank"], sentences()))


def test_tasks_come_and_go_in_milliseconds_and_others_notice_nothing(runs):
    bank = open_bank([runs["prompt"], runs["upper"]])
    first = next(iter(bank.tasks))
    before = scores_of(bank, [first], sentences())[0]
    took = []
    for _ in range(3):
        start = time.process_time()
        (added,) = bank.add(runs["low-rank"]).tasks
        took.append(time.process_time() - start)
        np.testing.assert_array_equal(scores_of(bank, [first], sentences())[0], before)
        bank.remove(added)
        np.testing.assert_array_equal(scores_of(bank, [first], sentences())[0], before)
    assert min(took) < 0.05
    assert added not in bank.tasks and bank.scorer.bank.slots == [0, 1]
    with pytest.raises(CheckpointError, match=f'no head for task "{added}"'):
        bank.remove(added)


def test_models_keep_their_states_when_the_first_goes(runs):
    bank = open_bank([runs["low-rank"], runs["prompt"]])
    first, second = bank.tasks
    bank.remove(first)
    bank.add(runs["upper"])
    np.testing.assert_array_equal(scores_of(bank, [second], sentences())[0], alone(runs["prompt"], sentences()))
    bank.add(runs["low-rank"])
    again = scores_of(bank, [first], sentences())[0]
    np.testing.assert_allclose(again, alone(runs["low-rank"], sentences()), atol=1e-5)


def test_a_model_over_another_backbone_is_refused_with_both_digests(world, runs, tmp_path):
    write_bert(tmp_path / "other", seed=1)
    own = json.loads((world.data / "mixture.yaml").read_text()) | {"root": str(world.data)}
    own["tasks"] = {"elsewhere": own["tasks"]["places"]}
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    run_pretrain(world, tmp_path / "run", manifest=tmp_path / "own.yaml", backbone__reference=str(tmp_path / "other"))
    bank = open_bank([runs["prompt"]])
    with pytest.raises(CheckpointError, match=r"something else:\s+backbone.weights_sha256: checkpoint '.*now '"):
        bank.add(tmp_path / "run")
    assert len(bank.tasks) == 1 and bank.scorer.bank.slots == [0]
    bank.remove("places_prompt")
    with pytest.raises(CheckpointError, match=r"backbone\.weights_sha256"):  # an emptied bank keeps its backbone
        bank.add(tmp_path / "run")


def test_a_task_that_is_open_already_is_refused(runs):
    bank = open_bank([runs["prompt"]])
    with pytest.raises(CheckpointError, match=r"task places_prompt is open already, from .*prompt.*Rename the task"):
        bank.add(runs["prompt"])
    assert bank.scorer.bank.slots == [0]


def test_models_in_another_position_are_not_opened_together(world, runs, tmp_path):
    own = json.loads((world.data / "mixture.yaml").read_text()) | {"root": str(world.data)}
    own["tasks"] = {"shifted": own["tasks"]["places"]}
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    run_pretrain(world, tmp_path / "run", manifest=tmp_path / "own.yaml", method="prefix-tuning")
    with pytest.raises(CheckpointError, match=r"backbone.positions: checkpoint 'shifted', now 'unshifted'"):
        open_bank([runs["prompt"], tmp_path / "run"])
    own["tasks"] = {"longer": own["tasks"]["shifted"]}
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    run_pretrain(world, tmp_path / "long", manifest=tmp_path / "own.yaml", method="prefix-tuning", prompt__length=6)
    with pytest.raises(CheckpointError, match="virtual tokens: checkpoint 6, now 4"):
        open_bank([tmp_path / "run", tmp_path / "long"])


def test_predict_writes_a_file_for_each_task_in_one_call(world, runs, tmp_path, monkeypatch, capsys):
    text = world.data / "places" / "test.txt"
    arguments = ["predict", str(runs["prompt"]), str(text), "--out", str(tmp_path / "tagged.txt")]
    arguments += ["--with", str(runs["low-rank"]), "--with", str(runs["head"])]
    main(lambda: app(arguments, standalone_mode=False))
    names = ["places_prompt", "places_low-rank", "places_head"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"tagged.{name}.txt" for name in names)
    for name, run in zip(names, ("prompt", "low-rank", "head"), strict=True):
        single = tmp_path / f"single.{name}.txt"
        main(
            lambda run=run, single=single: app(
                ["predict", str(runs[run]), str(text), "--out", str(single)], standalone_mode=False
            )
        )
        assert single.read_text() == (tmp_path / f"tagged.{name}.txt").read_text()
    assert capsys.readouterr().out.count("30 sentences of") == 6


def test_evaluation_scores_tasks_of_several_models(world, runs, tmp_path):
    own = json.loads((world.data / "mixture.yaml").read_text()) | {"root": str(world.data)}
    own["tasks"] = {name: own["tasks"]["places"] for name in ("places_prompt", "places_head")}
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    report = evaluate(
        runs["prompt"],
        tmp_path / "own.yaml",
        tasks=(),
        split="dev",
        out=None,
        backbone=None,
        more=[runs["head"]],
        console=quiet(),
    )
    assert [one.task for one in report.tasks] == ["places_prompt", "places_head"]
    for one in report.tasks:
        recorded = json.loads((runs[one.task.removeprefix("places_")] / "results.json").read_text())
        assert one.score.to_json() == recorded["dev"][one.task]
