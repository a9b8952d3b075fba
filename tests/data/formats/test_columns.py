from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt.base.errors import DataError
from mpt.data.formats.columns import read_columns, replace_field, split_fields
from mpt.data.formats.source import Problems, SourceFormat


def read(text: str, **layout):
    """Return the sentences of a column file and the problems found in it."""
    source = SourceFormat(**{"format": "conll", "delimiter": "tab", "tag_column": 1, "scheme": "iob2", **layout})
    problems = Problems(Path("f.tsv"))
    found = list(read_columns(text, source, problems))
    return found, str(problems.error()).splitlines() if problems else []


def words(text: str, **layout) -> list[list[str]]:
    found, problems = read(text, **layout)
    assert problems == []
    return [list(sentence.words) for sentence in found]


@pytest.mark.parametrize(
    "text",
    [
        "a\tO\nb\tO\n\nc\tO\n\n",
        "a\tO\nb\tO\n\nc\tO",
        "a\tO\nb\tO\n\nc\tO\n",
        "a\tO\r\nb\tO\r\n\r\nc\tO\r\n",
        "a\tO\nb\tO\n\t\nc\tO\n",
        "\n\n a\tO\nb\tO\n \t \n\nc\tO\n\n\n".replace(" a", "a"),
    ],
)
def test_line_ends_and_blank_lines(text):
    assert words(text) == [["a", "b"], ["c"]]


def test_lines_and_tags_are_kept():
    found, _ = read("\na\tB-X\nb\tI-X\n\nc\tO\n")
    assert [sentence.lines for sentence in found] == [(2, 3), (5,)]
    assert [sentence.tags for sentence in found] == [("B-X", "I-X"), ("O",)]
    assert [sentence.document for sentence in found] == [None, None]


@pytest.mark.parametrize(
    "word", ["#nlp", '"', "''", "\ufe0f", "a\u00a0b", "\u00a0", "x\u2028y", "x\u0085y", "1 000", "\ufeff"]
)
def test_odd_words_are_words(word):
    assert words(f"{word}\tO\n") == [[word]]


def test_white_space_columns_are_cut_at_spaces_and_tabs_only():
    assert words(" a\u00a0b \t  O  \n", delimiter="whitespace") == [["a\u00a0b"]]
    assert words("a O\n", delimiter="space") == [["a"]]
    assert words("a,O\n", delimiter=",") == [["a"]]
    found, problems = read("a  O\n", delimiter="space", tag_column=2)
    assert problems == []
    assert found[0].tags == ("O",)


def test_columns_count_from_both_ends():
    found, _ = read("EU NNP B-NP B-ORG\n", delimiter="space", tag_column=-1)
    assert found[0].tags == ("B-ORG",)
    found, _ = read("0\tEU\tB-ORG\n", word_column=1, tag_column=2)
    assert found[0].words == ("EU",)


def test_without_a_tag_column_there_are_no_tags():
    found, problems = read("EU\n\nrejects\n", tag_column=None)
    assert problems == []
    assert [sentence.tags for sentence in found] == [None, None]


def test_document_marks_are_no_words_and_are_counted():
    text = "-DOCSTART- -X- O\n\na O\n\n-DOCSTART- -X- O\nb O\n-DOCSTART-\nc O\n-DOCSTART-x O\n"
    found, problems = read(text, delimiter="space", docstart="-DOCSTART-")
    assert problems == []
    assert [(sentence.words, sentence.document) for sentence in found] == [
        (("a",), 1),
        (("b",), 2),
        (("c", "-DOCSTART-x"), 3),
    ]
    assert [sentence.document for sentence in read("a\tO\n", docstart="-DOCSTART-")[0]] == [0]


def test_an_undeclared_document_mark_is_refused():
    found, problems = read("-DOCSTART-\tO\n\na\tO\n")
    assert problems == ['f.tsv:1: -DOCSTART- marks a document and is no word. Set docstart: "-DOCSTART-"']
    assert len(found) == 1


def test_comments_are_declared():
    assert words("# id 1\na\tO\n", comment_prefix="# ") == [["a"]]
    _, problems = read("# id 1\na\tO\n")
    assert problems == [
        'f.tsv:1: line has 1 column, columns.tag asks for index 1 (counted from 0). Line: "# id 1". '
        "It would have more with delimiter: whitespace"
    ]


def test_a_comment_that_is_a_word_with_a_tag_is_refused():
    _, problems = read("so\tO\n#nlp\tO\n# a\tb\n", comment_prefix="#")
    assert problems == ['f.tsv:2: begins with comment_prefix "#", yet is a word with a tag: "#nlp\\tO"']


def test_the_columns_of_a_sentence_agree():
    _, problems = read("a\tO\nb\tO\tx\n\nc\tO\tx\n")
    assert problems == ['f.tsv:2: line has 3 columns, line 1 has 2. Line: "b\\tO\\tx"']


def test_columns_counted_from_the_end_agree_in_the_whole_file():
    _, problems = read("New\tO\nYork\tO\n\nx\tNew\tO\n", tag_column=-1)
    assert problems == ['f.tsv:4: line has 3 columns, line 1 has 2. Line: "x\\tNew\\tO"']


def test_a_broken_sentence_is_left_out_and_the_others_are_read_on():
    found, problems = read("a\tO\nb\n\nc\tO\n\n\tO\n")
    assert [sentence.words for sentence in found] == [("c",)]
    assert [problem.split(": ")[0] for problem in problems] == ["f.tsv:2", "f.tsv:6"]
    assert problems[1] == "f.tsv:6: the word is empty"


CONLLU = """\
# sent_id = 1
# text = #tag don't\tgo
1\t#\t#\tSYM\tNN\t_\t_\t_\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVB\t_\t_\t_\t_\t_
3\tn't\tnot\tPART\tRB\t_\t_\t_\t_\t_
3.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t_\t_
4\t_\t_\tPUNCT\t.\t_\t_\t_\t_\t_

"""


@pytest.mark.parametrize(
    ("column", "tags"),
    [
        ("upos", ("SYM", "AUX", "PART", "PUNCT")),
        ("XPOS", ("NN", "VB", "RB", ".")),
        (3, ("SYM", "AUX", "PART", "PUNCT")),
        (None, None),
    ],
)
def test_conllu_reads_plain_ids_only(column, tags):
    found, problems = read(CONLLU, format="conllu", scheme="raw", tag_column=column)
    assert problems == []
    assert found[0].words == ("#", "do", "n't", "_")
    assert found[0].tags == tags
    assert found[0].lines == (3, 5, 6, 8)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1\ta\ta\tX", 'line has 4 columns, CoNLL-U has 10 separated by tabs. Line: "1\\ta\\ta\\tX"'),
        ("x\ta\ta\tX\t_\t_\t_\t_\t_\t_", '"x" is not a CoNLL-U id'),
        ("1\t\ta\tX\t_\t_\t_\t_\t_\t_", "the word is empty"),
        ("1\ta\ta\t_\t_\t_\t_\t_\t_\t_", "upos is _, which means none"),
    ],
)
def test_conllu_rows_are_checked(row, problem):
    _, problems = read(row + "\n", format="conllu", scheme="raw", tag_column="upos")
    assert problems[0].startswith(f"f.tsv:1: {problem}")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"format": "conllu", "tag_column": "upso"}, 'columns.tag "upso" is not a column .* Did you mean "upos"'),
        ({"format": "conllu", "word_column": 2, "tag_column": 3}, "the word of a CoNLL-U row is its FORM"),
        ({"tag_column": "tag"}, "only conllu has named columns"),
        ({"word_column": "form"}, "only conllu has named columns"),
    ],
)
def test_column_names_are_those_of_conllu(layout, message):
    with pytest.raises(DataError, match=message):
        read("a\tO\n", **layout)


@given(
    st.lists(st.text(alphabet="ab#\u00a0", min_size=1, max_size=3), min_size=1, max_size=4),
    st.sampled_from([("tab", "\t"), ("space", " "), ("whitespace", " \t"), (";", ";")]),
    st.data(),
)
def test_replacing_a_column_changes_nothing_else(fields, delimiter, data):
    name, separator = delimiter
    line = separator.join(fields)
    column = data.draw(st.sampled_from([None, *range(-len(fields), len(fields))]))
    new = replace_field(line, name, column, "B-X")
    expected = [*fields, "B-X"] if column is None else list(fields)
    if column is not None:
        expected[column] = "B-X"
    assert split_fields(new, name) == expected
    if column is None:
        assert new.startswith(line)
    else:
        assert replace_field(new, name, column, fields[column]) == line
