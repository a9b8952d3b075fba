import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpt.base.errors import DataError
from mpt.data.formats.sentences import read_sentences, write_predictions
from mpt.data.formats.source import SourceFormat
from mpt.data.tags import check_tags

DATA = Path(os.environ.get("MPT_DATA") or Path(__file__).parents[3] / "../shared/data").absolute()
SKELETON = {"word_column": 1, "predicate_column": 2, "argument_column": 4, "delimiter": "tab", "comment_prefix": "#"}
CONLL05 = {"word_column": 0, "predicate_column": 1, "argument_column": 2, "delimiter": "whitespace"}
CONLL12 = {
    "word_column": 3,
    "predicate_column": 7,
    "argument_column": 11,
    "trailing_columns": 1,
    "delimiter": "whitespace",
    "comment_prefix": "#",
}

TWO = """# id = 1
1\tAda\t-\t-\t(ARG0*)\t(ARG0*)
2\tsaw\tsee\tsee.01\t(V*)\t*
3\tBob\t-\t-\t(ARG1*\t*
4\tgo\tgo\tgo.02\t*)\t(V*
5\taway\t-\t-\t*\t*)
"""
NONE = "1\tYes\t-\t-\n2\t!\t-\t-\n"
TAGS = [("B-ARG0", "B-V", "B-ARG1", "I-ARG1", "O"), ("B-ARG0", "O", "O", "B-V", "I-V")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def layout(**changes):
    return SourceFormat(format="props", **{**SKELETON, **changes})


def read(content, **changes):
    Path("in").write_text(content)
    return read_sentences(Path("in"), layout(**changes))


def problems(content, **changes):
    with pytest.raises(DataError) as caught:
        read(content, **changes)
    return caught.value.problems


def written(content, tags=None, **changes):
    """The file with other arguments; its own where none are given."""
    source = layout(**changes)
    Path("in").write_text(content)
    sentences = read_sentences(Path("in"), source if tags is None else source.without_gold())
    write_predictions(Path("in"), source, sentences, tags or [one.tags for one in sentences], Path("out"))
    return Path("out").read_text()


# Reading


def test_a_sentence_is_an_example_for_each_predicate():
    first, second, none = read(TWO + "\n\n" + NONE)
    assert first.words == second.words == ("Ada", "saw", "Bob", "go", "away")
    assert [one.tags for one in (first, second)] == TAGS
    assert (first.predicate, second.predicate, none.predicate) == (1, 3, None)
    assert first.lines == second.lines == (2, 3, 4, 5, 6)
    assert (none.words, none.tags, none.where) == (("Yes", "!"), ("O", "O"), "in:9")


def test_columns_of_the_shared_task_of_2005():
    text = "  The      -      (A0*   (A0*\n  boy      -         *)     *)\n tried    try     (V*)     *\n"
    text += " to       -      (A1*     *\n  go      go         *)   (V*)\n"
    first, second = read(text, **{**CONLL05, "comment_prefix": None})
    assert first.tags == ("B-A0", "I-A0", "B-V", "B-A1", "I-A1")
    assert second.tags == ("B-A0", "I-A0", "O", "O", "B-V")


def test_columns_of_the_shared_task_of_2012():
    row = "bc/a 0 {} {} X * {} {} 1 - * {} (3)\n"
    text = "#begin document (bc/a); part 000\n"
    text += row.format(0, "We", "-", "-", "(ARG0*)") + row.format(1, "go", "go", "02", "(V*)")
    text += "\n#end document\n"
    (only,) = read(text, **CONLL12)
    assert (only.words, only.tags, only.predicate) == (("We", "go"), ("B-ARG0", "B-V"), 1)


def test_documents_are_counted():
    text = "DOC\n" + TWO + "DOC\n" + NONE
    assert [one.document for one in read(text, docstart="DOC")] == [1, 1, 2]


def test_arguments_may_be_absent_where_they_are_not_read():
    bare = "\n".join(line.rsplit("\t", 2)[0] for line in TWO.splitlines()[1:]) + "\n"
    Path("in").write_text(bare)
    sentences = read_sentences(Path("in"), layout().without_gold())
    assert [(one.predicate, one.tags) for one in sentences] == [(1, None), (3, None)]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("3\tBob\t-\t-\t(ARG1*\t*", "3\tBob\t-\t-\t(ARG1*\t*)", 'in:4: column 5: "*)" closes what was not opened'),
        ("(ARG1*\t*\n", "((ARG1*\t*\n", 'in:4: column 4: "((ARG1*" is none of *, (ROLE*, *) and (ROLE*)'),
        ("(ARG1*\t*\n", "(ARG1(ARG2*\t*\n", 'in:4: column 4: "(ARG1(ARG2*" is none of'),
        ("(ARG1*\t*\n", "ARG1\t*\n", 'in:4: column 4: "ARG1" is none of'),
        ("*)\t(V*\n", "(ARG2*)\t(V*\n", 'in:5: column 4: "(ARG2*)", yet (ARG1 of line 4 is open; arguments neither'),
        ("*\t*)\n", "*\t*\n", "in:5: column 5: (V is not closed in its sentence"),
        ("(V*)\t*\n", "*\t*\n", 'in:3: the predicate "saw" has 0 spans V among its arguments; it needs one'),
        ("(ARG0*)\t(ARG0*)", "(V*)\t(ARG0*)", 'in:3: the predicate "saw" has 2 spans V'),
        ("(V*)\t*\n3\tBob\t-\t-\t(ARG1*", "(ARG1*)\t*\n3\tBob\t-\t-\t(V*", 'in:3: the predicate "saw" is not inside'),
        (
            "go\tgo.02",
            "-\tgo.02",
            "in:2: 2 columns of arguments (from index 4) for 1 predicates (words with other than",
        ),
        ("2\tsaw", "2", "in:3: line has 5 columns, line 2 of the same sentence has 6"),
        ("2\tsaw", "2\t", "in:3: the word is empty"),
        ("5\taway\t-\t-\t*\t*)", "5\taway", "in:6: line has 2 columns, columns asks for at least 4"),
    ],
)
def test_what_breaks_the_layout_is_named_with_its_line(old, new, found):
    assert old in TWO
    assert any(one.startswith(found) for one in problems(TWO.replace(old, new))), problems(TWO.replace(old, new))


def test_the_predicate_may_stand_in_what_continues_its_v():
    text = "1\tflip\t-\t-\t(V*)\n2\t-\t-\t-\t*\n3\tflop\tflip\tflip.01\t(C-V*)\n"
    (only,) = read(text)
    assert only.tags == ("B-V", "O", "B-C-V")


def test_all_problems_of_a_file_are_told_at_once():
    text = TWO.replace("(ARG0*)\t(ARG0*)", "(ARG0*\t(ARG0)") + "\n" + NONE.replace("Yes", "")
    assert [one.partition(": ")[0] for one in problems(text)] == ["in:2", "in:3", "in:8"]


# JSON lines


def test_json_lines_name_the_predicate_by_its_number():
    Path("in").write_text(
        '{"tokens": ["Ada", "saw"], "tags": ["B-ARG0", "B-V"], "predicate": 1}\n'
        '{"tokens": ["Yes"], "tags": ["O"], "predicate": null}\n'
    )
    source = SourceFormat(format="jsonl", scheme="iob2", predicate_field="predicate")
    first, second = read_sentences(Path("in"), source)
    assert (first.predicate, second.predicate) == (1, None)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ('["B-V", "O"], "predicate": 2', "in:1: predicate must be the number of a word, 0 to 1, or null, got"),
        ('["B-V", "O"], "predicate": -1', "in:1: predicate must be the number of a word"),
        ('["B-V", "O"], "predicate": true', "in:1: predicate must be the number of a word"),
        ('["B-V", "O"]', 'in:1: no field "predicate" among'),
        ('["B-V", "O"], "predicate": 1', 'in:1: the predicate "saw" is not inside its V, which is "Ada"'),
        ('["O", "B-A0"], "predicate": null', 'in:1: "A0" in a sentence without a predicate'),
    ],
)
def test_wrong_predicates_of_json_lines(record, found):
    Path("in").write_text(f'{{"tokens": ["Ada", "saw"], "tags": {record}}}\n')
    with pytest.raises(DataError) as caught:
        read_sentences(Path("in"), SourceFormat(format="jsonl", scheme="iob2", predicate_field="predicate"))
    assert caught.value.problems[0].startswith(found)


# Writing


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_gold_written_back_gives_the_same_text(newline):
    text = (TWO + "\n \n" + NONE).replace("\n", newline)
    Path("in").write_bytes(text.encode())
    sentences = read_sentences(Path("in"), layout())
    write_predictions(Path("in"), layout(), sentences, [one.tags for one in sentences], Path("out"))
    assert Path("out").read_bytes() == text.encode()


def test_predictions_replace_all_arguments_and_fill_what_has_none():
    predicted = [("O", "B-V", "O", "O", "O"), ("O", "O", "B-A1", "B-V", "B-A2")]
    bare = "\n".join(line.rsplit("\t", 2)[0] if "\t" in line else line for line in TWO.splitlines()) + "\n"
    expected = [("*", "*"), ("(V*)", "*"), ("*", "(A1*)"), ("*", "(V*)"), ("*", "(A2*)")]
    for content in (TWO, bare):
        rows = [line.split("\t") for line in written(content, predicted).splitlines()[1:]]
        assert [tuple(row[4:]) for row in rows] == expected
        assert [row[:4] for row in rows] == [line.split("\t")[:4] for line in TWO.splitlines()[1:]]


def test_columns_behind_the_arguments_stay():
    text = "bc/a 0 0 We X * - - - - * * * (3)\nbc/a 0 1 go X * go 02 1 - * (V*) * -\n"
    predicted = written(
        text.replace(" * * * (3)", " * * (3)").replace("(V*) * -", "(V*) -"), [("B-ARG0", "B-V")], **CONLL12
    )
    assert predicted == "bc/a 0 0 We X * - - - - * (ARG0*) (3)\nbc/a 0 1 go X * go 02 1 - * (V*) -\n"


def test_a_label_that_cannot_stand_in_brackets_is_refused():
    with pytest.raises(DataError, match=r"label .A\(0. cannot stand in brackets"):
        written(TWO, [("B-A(0", "O", "O", "O", "O"), ("O",) * 5])


def valid_tags(length):
    step = st.sampled_from(["continue", "O", "B-ARG0", "B-C-ARG0", "B-R-ARGM-TMP"])

    def build(steps):
        tags = []
        for choice in steps:
            inside = tags and tags[-1] != "O"
            tags.append(choice if choice != "continue" else f"I-{tags[-1][2:]}" if inside else "O")
        return tuple(tags)

    return st.lists(step, min_size=length, max_size=length).map(build)


@given(st.tuples(valid_tags(5), valid_tags(5)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_again(predicted):
    from mpt.data.formats.props import read_props
    from mpt.data.formats.source import Problems

    text, found = written(TWO, list(predicted)), Problems(Path("out"))
    assert [one.tags for one in read_props(text, layout(), found)] == list(predicted)
    assert not found and all(not check_tags(tags, "iob2") for tags in predicted)


# Real data


@pytest.mark.parametrize(
    ("split", "asked", "without", "labels"),
    [("train", 40_391, 1_983, 59), ("dev", 4_913, 426, 45), ("test", 4_795, 523, 44)],
)
def test_propbank_is_read_whole_and_written_back(split, asked, without, labels):
    path = DATA / f"propbank_ewt/{split}.tsv"
    if not path.is_file():
        pytest.skip(f"no {path}: set MPT_DATA to a folder with propbank_ewt")
    source = layout(predicate_column=4, argument_column=6)
    sentences = read_sentences(path, source)
    assert sum(one.predicate is not None for one in sentences) == asked
    assert sum(one.predicate is None for one in sentences) == without
    assert len({tag[2:] for one in sentences for tag in one.tags if tag != "O"}) == labels
    write_predictions(path, source, sentences, [one.tags for one in sentences], Path("out"))
    assert Path("out").read_bytes() == path.read_bytes()
