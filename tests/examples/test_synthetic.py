import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import synthetic
from grammar import FRAMES, OPEN, RULES
from mpt.base.errors import DataError
from mpt.data.manifest.reading import load_manifest
from mpt.data.tags import check_tags, spans
from mpt.data.tasks import load_tasks
from synthetic import PARTS, TARGET, write_synthetic

DIGEST = "792c4779f3e7cebd2fdcf6532da37c29a4cccfb7c6e37a0b8bd45122a0b9ae1c"
"""SHA-256 over the names and bytes of every file of `write_synthetic(folder)`. It changes with the grammar only."""


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0" for path in files)
    ).hexdigest()


def read(path):
    """Sentences as (words, tags), read without the library's readers."""
    blocks = path.read_bytes().decode("ascii").rstrip("\n").split("\n\n")
    return [tuple(zip(*(line.split("\t") for line in block.split("\n")), strict=True)) for block in blocks]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "data")


@pytest.fixture(scope="module")
def corpus(folder):
    return {
        task: {split: read(folder / task / f"{split}.tsv") for split in ("train", "dev", "test")} for task in FRAMES
    }


def entities(sentences):
    for words, tags in sentences:
        for span in spans(tags):
            yield " ".join(words[span.start : span.end]), span.type


def test_bytes_are_fixed(folder):
    assert digest(folder) == DIGEST


def test_bytes_do_not_depend_on_the_process(folder, tmp_path):
    # Another hash seed reorders sets, another directory and locale must not matter either.
    code = "from pathlib import Path; from synthetic import write_synthetic; write_synthetic(Path('out'))"
    environment = {**os.environ, "PYTHONHASHSEED": "4242", "LC_ALL": "C", "PYTHONUTF8": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(synthetic.__file__).parents[up]) for up in (0, 1))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert digest(tmp_path / "out") == digest(folder)


def test_seed_and_size_are_arguments(folder, tmp_path):
    other = write_synthetic(tmp_path / "other", sentences=12, seed=1)
    assert [len(read(other / "travel" / f"{split}.tsv")) for split in ("train", "dev", "test")] == [12, 3, 6]
    assert read(other / "travel" / "train.tsv")[0] != read(folder / "travel" / "train.tsv")[0]


def test_sizes(corpus):
    for task, splits in corpus.items():
        assert {split: len(sentences) for split, sentences in splits.items()} == {
            "train": 400,
            "dev": 100,
            "test": 200,
        }, task
    assert len(corpus) == 4


def test_tags_are_valid_and_words_are_whole(corpus):
    for task, splits in corpus.items():
        for sentences in splits.values():
            for words, tags in sentences:
                assert check_tags(tags, "iob2") == [], task
                assert all(word and not word.isspace() and not set(word) & set("<>()|\\") for word in words), words


def test_every_type_is_in_every_split_often(corpus):
    for task, splits in corpus.items():
        counts = {split: Counter(kind for _, kind in entities(sentences)) for split, sentences in splits.items()}
        assert counts["train"].keys() == counts["dev"].keys() == counts["test"].keys(), task
        assert len(counts["train"]) >= 5
        assert min(counts["train"].values()) >= 40, (task, counts["train"])


def test_no_sentence_twice(corpus):
    for task, splits in corpus.items():
        words = [words for sentences in splits.values() for words, _ in sentences]
        assert len(set(words)) == len(words), task


def test_most_entities_of_test_are_unseen_in_all_of_train(corpus):
    seen = {entity.lower() for splits in corpus.values() for entity, _ in entities(splits["train"])}
    for task, splits in corpus.items():
        found = [entity.lower() for entity, _ in entities(splits["test"])]
        assert sum(entity in seen for entity in found) / len(found) < 0.4, task


def test_words_of_open_classes_do_not_cross_splits(corpus):
    # Drugs are of one kind only, so the rule can be seen: a drug of train is no drug of test.
    drugs = {
        split: {name for name, kind in entities(corpus["clinic"][split]) if kind == "Drug"}
        for split in ("train", "test")
    }
    assert drugs["train"]
    assert drugs["test"]
    assert not drugs["train"] & drugs["test"]


def test_surface_forms_are_ambiguous(corpus):
    # In every task: a good share of the entity words also occurs outside entities or under another type.
    for task, splits in corpus.items():
        kinds = {}
        for words, tags in splits["train"]:
            for word, tag in zip(words, tags, strict=True):
                kinds.setdefault(word.lower(), set()).add(tag.partition("-")[2])
        inside = [names for names in kinds.values() if names != {""}]
        assert sum(len(names) > 1 for names in inside) / len(inside) > 0.15, task


def test_some_frames_are_kept_out_of_training(corpus):
    def has(split):
        return any(" ".join(words).startswith("what does") for words, _ in corpus["travel"][split])

    assert has("train")
    held_out = [
        split
        for split in ("train", "test")
        if any(words[0] == "book" and words[1] != "me" for words, _ in corpus["travel"][split])
    ]
    assert held_out == ["test"]


def test_label_sets_overlap_in_meaning_only(corpus):
    names = {task: {kind for _, kind in entities(splits["train"])} for task, splits in corpus.items()}
    for task, types in names.items():
        assert not any(types & others for other, others in names.items() if other != task)


def test_every_name_in_the_grammar_is_defined_and_used():
    texts = [*FRAMES.values(), *RULES.values()]
    texts += [part["options"] for text in texts for part in PARTS.finditer(text) if part["options"]]
    used = {part["name"] for text in texts for part in PARTS.finditer(text) if part["name"]}
    assert used == OPEN.keys() | RULES.keys()


def test_nothing_of_the_notation_is_lost():
    for frames in FRAMES.values():
        for frame in frames.strip().splitlines():
            assert not PARTS.sub("", frame).strip(), frame


def test_it_says_that_it_is_synthetic(folder):
    for name in ("mixture", "target"):
        text = (folder / f"{name}.yaml").read_text()
        assert f"name: synthetic-{name}" in text
    assert (folder / "README.txt").read_text().startswith("Synthetic data")
    assert f"  {TARGET}:" not in (folder / "mixture.yaml").read_text()


def test_own_result_is_replaced(tmp_path):
    write_synthetic(tmp_path, sentences=8)
    write_synthetic(tmp_path, sentences=4)
    assert len(read(tmp_path / "clinic" / "train.tsv")) == 4


def test_other_files_are_never_written_over(tmp_path):
    (tmp_path / "mixture.yaml").write_text("mine")
    with pytest.raises(DataError, match=r"holds other files: mixture\.yaml\. Name an empty or a new folder"):
        write_synthetic(tmp_path)
    assert (tmp_path / "mixture.yaml").read_text() == "mine"
    write_synthetic(tmp_path / "new", sentences=4)
    (tmp_path / "new" / "notes.md").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.md"):
        write_synthetic(tmp_path / "new")
    with pytest.raises(DataError, match="is a file, expected a folder"):
        write_synthetic(tmp_path / "mixture.yaml")


def test_impossible_sizes(tmp_path):
    with pytest.raises(DataError, match="sentences is 0, expected 1 or more"):
        write_synthetic(tmp_path / "none", sentences=0)
    assert not (tmp_path / "none").exists()


def test_a_grammar_that_runs_out_says_so_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "FRAMES", {"travel": "see you on <weekday>", "support": "on <weekday>"})
    with pytest.raises(DataError, match=r"travel dev: the grammar gave 0 different sentences, asked for 2"):
        write_synthetic(tmp_path / "out", sentences=7)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "tasks"), [("mixture", ["travel", "newsdesk", "clinic"]), ("target", ["support"])])
def test_the_manifests_load_without_a_notice(folder, corpus, name, tasks):
    loaded, notices = load_tasks(load_manifest(folder / f"{name}.yaml"), splits=("train", "dev", "test"))
    assert notices == []
    assert [task.name for task in loaded] == tasks
    for task in loaded:
        for split, sentences in task.splits.items():
            assert [(sentence.words, sentence.tags) for sentence in sentences] == corpus[task.name][split]
