import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpt.base.errors import DataError
from mpt.data.formats.sentences import read_sentences, write_predictions
from mpt.data.formats.source import SourceFormat

DATA = Path(os.environ.get("MPT_DATA") or Path(__file__).parents[3] / "../shared/data").absolute()
BIO = {"format": "conll", "delimiter": "tab", "tag_column": 1, "scheme": "iob2"}
OLD = {"format": "conll", "delimiter": "space", "tag_column": -1, "scheme": "iob1", "docstart": "-DOCSTART-"}
UPOS = {"format": "conllu", "tag_column": "upos"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def predict(content: str | bytes, tags: list[str] | None = None, **layout) -> bytes:
    """Write predictions for a file: the given tags, sentence by sentence, or its own gold."""
    path, source = Path("in"), SourceFormat(**{**BIO, **layout})
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    sentences = read_sentences(path, source if tags is None else source.without_gold())
    predicted = [sentence.tags or () for sentence in sentences] if tags is None else [line.split() for line in tags]
    write_predictions(path, source, sentences, predicted, Path("out"))
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert sorted(os.listdir()) == ["in", "out"]
    return Path("out").read_bytes()


def objects(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        ("EU\tB-ORG\n\t\n#x\tO\n\n\n", {}),
        ("EU\tB-ORG\r\n\r\n#x\tO", {}),
        (b"\xef\xbb\xbfEU\tB-ORG\n", {}),
        (b"B-ORG\tEU\r\nO\t\xef\xbb\xbf\r\n", {"word_column": 1, "tag_column": 0}),
        (b"\xef\xbb\xbfB-ORG\tEU\n", {"word_column": 1, "tag_column": 0}),
        (b"Z\xfcrich\tB-LOC\n", {"encoding": "latin-1"}),
        ("EU\tB-ORG\n".encode("utf-16"), {"encoding": "utf-16"}),
        (b"\xed\xa0\xbc\xed\xbd\x95\tO\n", {"encoding": "utf-8-surrogatepass"}),
        ("-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\n UN  NNP B-NP B-ORG \n", {**OLD, "delimiter": "whitespace"}),
        ("# id\na  B-X \tz\nb E-X z\n", {"comment_prefix": "#", "delimiter": "whitespace", "scheme": "iobes"}),
        ("x\u0085y\tB-X\nx\u2028y\tL-X\n", {"scheme": "bilou"}),
        ("# c\n1-2\tab\t_\t_\t_\t_\t_\t_\t_\t_\n1\ta\ta\tX\tY\t_\t_\t_\t_\t_\n", {**UPOS, "scheme": "raw"}),
    ],
)
def test_gold_written_back_gives_the_same_bytes(content, layout):
    assert predict(content, **layout) == (content if isinstance(content, bytes) else content.encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from(["", "\t", "EU\tB-X", "#\tO", '"\tI-X', "\ufe0f\tO", "c\tB-Y"]), min_size=1),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_any_file_comes_back_with_only_its_tags_changed(lines, end, final):
    content = end.join(["a\tO", *lines]) + end * final
    Path("out").unlink(missing_ok=True)
    source = SourceFormat(**BIO)
    Path("in").write_bytes(content.encode())
    sentences = read_sentences(Path("in"), source.without_gold())
    write_predictions(Path("in"), source, sentences, [("B-Z",) * len(s.words) for s in sentences], Path("out"))
    replaced = [line.partition("\t")[0] + "\tB-Z" if line.strip() else line for line in ["a\tO", *lines]]
    assert Path("out").read_bytes().decode() == end.join(replaced) + end * final


def test_tags_are_written_in_the_scheme_of_the_file():
    assert predict("a\tO\nb\tO\nc\tO\n", ["B-X B-X I-X"], scheme="iob1") == b"a\tI-X\nb\tB-X\nc\tI-X\n"
    assert predict("a\tO\nb\tO\nc\tO\n", ["B-X B-X I-X"], scheme="iobes") == b"a\tS-X\nb\tB-X\nc\tE-X\n"
    assert predict("a\tX\nb\tX\n", ["DET NOUN"], scheme="raw") == b"a\tDET\nb\tNOUN\n"


@pytest.mark.parametrize(
    ("content", "layout", "expected"),
    [
        ("a\nb\r\n\nc", {"delimiter": "tab"}, "a\tB-X\nb\tI-X\r\n\nc\tO"),
        ("a\tN\nb\tV\n\nc\tN\n", {"delimiter": "whitespace"}, "a\tN\tB-X\nb\tV\tI-X\n\nc\tN\tO\n"),
        ("a N\nb V\n\nc N\n", {"delimiter": "whitespace"}, "a N B-X\nb V I-X\n\nc N O\n"),
        ("a B-NP\nb I-NP\n\nc O\n", {"delimiter": "space"}, "a B-NP B-X\nb I-NP I-X\n\nc O O\n"),
    ],
)
def test_a_column_is_appended_where_there_was_none(content, layout, expected):
    assert predict(content, ["B-X I-X", "O"], **layout, tag_column=None).decode() == expected


@pytest.mark.parametrize(
    ("content", "tags", "scheme"),
    [
        ("a\tB-X\nb\tO\n", ["O B-X"], "iob2"),
        ("a\tO\nb\tO\n", ["O B-X"], "iob2"),
        ("a\tI-X\nb\tO\n", ["O O"], "iob1"),
        ("a\tNOUN\nb\tVERB\n", ["NOUN NOUN"], "raw"),
    ],
)
def test_predictions_never_stand_beside_gold(content, tags, scheme):
    with pytest.raises(DataError, match=r"in: column 1 holds tags already, such as .* Set columns.tag: 1 to replace"):
        predict(content, tags, tag_column=None, scheme=scheme)
    assert not Path("out").exists()


def test_conllu_gets_no_eleventh_column():
    row = "1\ta\ta\tX\tY\t_\t_\t_\t_\t_\n"
    with pytest.raises(DataError, match="CoNLL-U has ten columns"):
        predict(row, ["X"], format="conllu", tag_column=None, scheme="raw")
    assert predict(row, ["Z"], format="conllu", tag_column="xpos", scheme="raw") == row.replace("Y", "Z").encode()


def test_the_column_to_replace_has_to_be_there():
    with pytest.raises(DataError, match="in:1: no column 1 to replace"):
        predict("a\nb\n", ["O O"])


@pytest.mark.parametrize("tag", ["B-a b", "B-a\u2028b", "B-a;b"])
def test_a_tag_that_would_break_the_columns_is_refused(tag):
    Path("in").write_text("a;O\n")
    source = SourceFormat(**{**BIO, "delimiter": ";"})
    with pytest.raises(DataError, match="cannot stand in a column"):
        write_predictions(Path("in"), source, read_sentences(Path("in"), source), [(tag,)], Path("out"))


def test_a_tag_outside_the_encoding_is_refused():
    with pytest.raises(DataError, match='"\u4eba" cannot be written in latin-1'):
        predict("a\tO\n", ["B-\u4eba"], encoding="latin-1")


def test_a_file_that_its_codec_would_rewrite_is_refused():
    with pytest.raises(DataError, match="byte for byte in utf-16"):
        predict(b"\xfe\xff" + "a\tO\n".encode("utf-16-be"), ["B-X"], encoding="utf-16")


def test_the_input_is_never_overwritten():
    Path("in").write_text("a\tO\n")
    os.link("in", "same")
    sentences = read_sentences(Path("in"), SourceFormat(**BIO))
    for name in ("in", "./in", "same"):
        with pytest.raises(DataError, match="is the input file"):
            write_predictions(Path("in"), SourceFormat(**BIO), sentences, [("B-X",)], Path(name))
    assert Path("in").read_text() == "a\tO\n"


@pytest.mark.parametrize("content", ["b\tO\n", "a\tO\n\nb\tO\n", "\na\tO\n", "a\tO\nb\tO\n"])
def test_a_file_that_changed_since_is_refused(content):
    Path("in").write_text("a\tO\n")
    sentences = read_sentences(Path("in"), SourceFormat(**BIO))
    Path("in").write_text(content)
    with pytest.raises(DataError, match="Predict it again"):
        write_predictions(Path("in"), SourceFormat(**BIO), sentences, [("O",)], Path("out"))


def test_output_is_whole_or_absent(monkeypatch):
    Path("out").write_text("older")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="out: cannot be written: No space left on device"):
        predict("a\tO\n", ["B-X"])
    assert Path("out").read_text() == "older"
    assert sorted(os.listdir()) == ["in", "out"]
    sentences = read_sentences(Path("in"), SourceFormat(**BIO))
    with pytest.raises(DataError, match="cannot be written: No such file or directory"):
        write_predictions(Path("in"), SourceFormat(**BIO), sentences, [("O",)], Path("no/out"))


def test_jsonl_keeps_its_other_fields_and_lines():
    content = '{"id": 7, "tokens": ["caf\u00e9", "b"], "tags": ["O", "O"]}\r\n\n{"tokens": ["c"], "x": [1.5, null]}'
    written = predict(content, ["B-X I-X", "O"], format="jsonl", scheme="iobes")
    assert written.decode() == (
        '{"id": 7, "tokens": ["caf\u00e9", "b"], "tags": ["B-X", "E-X"]}\r\n\n'
        '{"tokens": ["c"], "x": [1.5, null], "tags": ["O"]}'
    )


def test_jsonl_fields_may_have_other_names():
    written = predict('{"w": ["a"], "t": ["O"]}\n', ["B-X"], format="jsonl", words_field="w", tags_field="t")
    assert objects(written) == [{"w": ["a"], "t": ["B-X"]}]
    written = predict('{"tokens": ["a"]}\n', ["B-X"], format="jsonl", tags_field=None)
    assert objects(written) == [{"tokens": ["a"], "tags": ["B-X"]}]


def test_jsonl_spans_are_replaced():
    content = '{"text": "go to  New York!", "spans": [[0, 2, "Y"]], "id": "\u00e9"}\n'
    written = predict(content, ["O O B-LOC I-LOC O"], format="jsonl_spans")
    span = {"start": 7, "end": 15, "type": "LOC", "text": "New York"}
    assert objects(written) == [{"text": "go to  New York!", "spans": [span], "id": "\u00e9"}]
    Path("again").write_bytes(written)
    (sentence,) = read_sentences(Path("again"), SourceFormat(format="jsonl_spans"))
    assert sentence.tags == ("O", "O", "B-LOC", "I-LOC", "O")


def test_gold_spans_that_cut_words_are_written_back():
    content = '{"text": "one pmnear me", "spans": [{"start": 0, "end": 6, "type": "t", "text": "one pm"}]}\n'
    assert predict(content, format="jsonl_spans").decode() == content


def test_surrogate_pairs_in_json_lines_come_out_as_one_character():
    content = b'{"text": "a \xed\xa0\xbc\xed\xbd\x95", "spans": []}\n'
    written = predict(content, ["O B-X"], format="jsonl_spans", encoding="utf-8-surrogatepass")
    assert objects(written)[0]["spans"] == [{"start": 2, "end": 3, "type": "X", "text": "\U0001f355"}]


def test_plain_text_becomes_an_object_a_line():
    written = predict("\nIn New York.\r\n\n", ["O B-LOC I-LOC O"], format="text", scheme="iob1")
    empty = {"text": "", "words": [], "tags": [], "spans": []}
    assert objects(written) == [
        empty,
        {
            "text": "In New York.",
            "words": ["In", "New", "York", "."],
            "tags": ["O", "I-LOC", "I-LOC", "O"],
            "spans": [{"start": 3, "end": 11, "type": "LOC", "text": "New York"}],
        },
        empty,
    ]


def test_text_is_written_as_it_is_and_not_escaped():
    assert "caf\u00e9" in predict("caf\u00e9\n", ["B-X"], format="text", scheme="iob2").decode()


def test_plain_text_of_a_raw_task_has_no_spans():
    written = predict("Go\n\nnow", ["VERB", "ADV"], format="text", scheme="raw")
    assert objects(written) == [
        {"text": "Go", "words": ["Go"], "tags": ["VERB"]},
        {"text": "", "words": [], "tags": []},
        {"text": "now", "words": ["now"], "tags": ["ADV"]},
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("snips", '{"i": [{"data": [{"text": "to "}, {"text": "Rome", "entity": "x"}]}]}'),
        ("rasa", '{"rasa_nlu_data": {"common_examples": [{"text": "to Rome", "entities": []}]}}'),
    ],
)
def test_slot_documents_become_json_lines(name, content):
    span = {"start": 3, "end": 7, "type": "city", "text": "Rome"}
    assert objects(predict(content, ["O B-city"], format=name)) == [
        {"text": "to Rome", "words": ["to", "Rome"], "tags": ["O", "B-city"], "spans": [span]}
    ]


def test_every_word_gets_exactly_one_tag():
    Path("in").write_text("a\tO\n")
    sentences = read_sentences(Path("in"), SourceFormat(**BIO))
    for tags in ([], [("O", "O")]):
        with pytest.raises(AssertionError):
            write_predictions(Path("in"), SourceFormat(**BIO), sentences, tags, Path("out"))


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("wnut17/train.conll", BIO),
        ("wnut17/dev.conll", BIO),
        ("wnut17/test.annotated", BIO),
        ("crossner_ai/dev.txt", BIO),
        ("crossner_literature/dev.txt", BIO),
        ("crossner_music/dev.txt", BIO),
        ("crossner_politics/test.txt", BIO),
        ("ncbi_disease/dev.tsv", BIO),
        ("bc5cdr/dev.tsv", BIO),
        ("bc2gm/dev.tsv", BIO),
        ("wikigold/all.conll.txt", OLD),
        ("sec_filings/train.txt", OLD),
        ("sec_filings/test.txt", OLD),
        ("ud_ewt/dev.conllu", UPOS),
        ("ud_ewt/test.conllu", {**UPOS, "tag_column": "xpos"}),
    ],
)
def test_real_files_come_back_byte_for_byte(name, layout):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    source = SourceFormat(**layout)
    sentences = read_sentences(path, source)
    write_predictions(path, source, sentences, [sentence.tags or () for sentence in sentences], Path("out"))
    assert Path("out").read_bytes() == path.read_bytes()
