from dataclasses import replace

import pytest
import torch

from mpt.base.errors import CheckpointError
from mpt.data.manifest.reading import load_manifest
from mpt.data.tasks import load_tasks
from mpt.experiments.start import build_head, namesakes
from mpt.model.heads import TokenHead
from mpt.serving.saved import open_saved


@pytest.fixture(scope="module")
def saved(world):
    return open_saved(world.run)


@pytest.fixture(scope="module")
def firms(world):
    (task,), _ = load_tasks(load_manifest(world.data / "target.yaml"))
    assert set(task.labels) == {"O", "B-ORG", "I-ORG", "B-PER", "I-PER"}
    return task


def build(saved, task, mode, seed=3, dropout=0.25):
    return build_head(saved, task, mode=mode, seed=seed, dropout=dropout)


def fresh(task, seed=3):
    return TokenHead(32, task.labels, seed=seed, task=task.name)


def row(head, label):
    index = head.labels.index(label)
    return torch.cat([head.weight[index], head.bias[index : index + 1]])


def test_a_fresh_head_is_drawn_from_the_seed(saved, firms):
    head = build(saved, firms, "fresh")
    assert torch.equal(head.weight, fresh(firms).weight)
    assert not torch.equal(head.weight, fresh(firms, seed=4).weight)
    assert head.labels == firms.labels
    assert head.dropout == 0.25


def test_by_label_copies_rows_of_the_same_name_and_leaves_the_others_fresh(saved, firms):
    head = build(saved, firms, "by-label")
    sources = [saved.scorer.head(name) for name in ("people", "places")]
    for label in ("O", "B-PER", "I-PER"):
        mean = torch.stack([row(source, label) for source in sources]).mean(0)
        assert torch.equal(row(head, label), mean), label
    for label in ("B-ORG", "I-ORG"):
        assert torch.equal(row(head, label), row(fresh(firms), label)), label


def test_letter_case_of_labels_is_left_aside(saved, firms):
    task = replace(firms, labels=("O", "B-per", "I-per"))
    assert torch.equal(row(build(saved, task, "by-label"), "B-per"), row(build(saved, firms, "by-label"), "B-PER"))
    assert [(head.labels, label) for head, label in namesakes(saved, "b-loc")] == [
        (saved.scorer.head("places").labels, "B-LOC")
    ]


def test_a_label_without_namesake_has_no_source(saved):
    assert namesakes(saved, "B-GENE") == []


def test_from_a_task_copies_its_whole_head(saved, firms):
    places = saved.scorer.head("places")
    task = replace(firms, labels=tuple(reversed(places.labels)))
    head = build(saved, task, "from:places")
    for label in task.labels:
        assert torch.equal(row(head, label), row(places, label))


def test_the_pretrained_heads_stay_as_they_are(saved, firms):
    before = saved.scorer.head("people").weight.clone()
    head = build(saved, firms, "by-label")
    with torch.no_grad():
        head.weight.add_(1.0)
    assert torch.equal(saved.scorer.head("people").weight, before)


def test_from_an_unknown_task_names_the_known_ones(saved, firms):
    with pytest.raises(CheckpointError) as caught:
        build(saved, firms, "from:peopel")
    assert "head from:peopel: no such task in the checkpoint, it has people, places, words." in str(caught.value)
    assert 'Did you mean "people"?' in str(caught.value)


def test_from_a_task_with_other_labels_names_them(saved, firms):
    with pytest.raises(CheckpointError) as caught:
        build(saved, firms, "from:places")
    message = str(caught.value)
    assert 'head from:places does not fit task "firms": labels differ' in message
    assert "only in the target: B-ORG, I-ORG; only in places: B-LOC, I-LOC" in message
    assert "Use --head by-label" in message
