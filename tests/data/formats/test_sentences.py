import logging
import os
from pathlib import Path

import pytest

from mpt.base.errors import DataError
from mpt.data.formats import source as source_module
from mpt.data.formats.sentences import read_sentences
from mpt.data.formats.source import SourceFormat

DATA = Path(os.environ.get("MPT_DATA") or Path(__file__).parents[3] / "../shared/data").absolute()
BIO = {"format": "conll", "delimiter": "tab", "tag_column": 1, "scheme": "iob2"}
OLD = {"format": "conll", "delimiter": "space", "tag_column": -1, "scheme": "iob1", "docstart": "-DOCSTART-"}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Write a file and read it, by default as TAB-separated BIO2."""
    monkeypatch.chdir(tmp_path)

    def run(content: str | bytes, **layout):
        path = Path("f.tsv")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_sentences(path, SourceFormat(**{**BIO, **layout}))

    return run


def problems_of(read, content, **layout) -> list[str]:
    with pytest.raises(DataError) as error:
        read(content, **layout)
    return str(error.value).splitlines()


def test_sentences_carry_words_tags_place_and_document(read):
    (sentence,) = read("-DOCSTART-\tO\n\nEU\tI-ORG\nUN\tB-ORG\n", scheme="iob1", docstart="-DOCSTART-")
    assert sentence.words == ("EU", "UN")
    assert sentence.tags == ("B-ORG", "B-ORG")
    assert (sentence.where, sentence.lines, sentence.document) == ("f.tsv:3", (3, 4), 1)


def test_raw_tags_are_left_alone(read):
    (sentence,) = read("a\tB-X\nb\tI-Y\n", scheme="raw")
    assert sentence.tags == ("B-X", "I-Y")


def test_a_byte_order_mark_is_no_part_of_the_first_word(read):
    assert read(b"\xef\xbb\xbfEU\tO\n")[0].words == ("EU",)
    assert read(b"\xef\xbb\xbfEU\tO\n", encoding="utf-8-sig")[0].words == ("EU",)
    assert read("EU\tO\n".encode("utf-16"), encoding="utf-16")[0].words == ("EU",)
    assert read(b"Z\xfcrich\tO\n", encoding="latin-1")[0].words == ("Z\u00fcrich",)


def test_surrogate_pairs_are_joined(read):
    pizza = b"\xed\xa0\xbc\xed\xbd\x95"
    assert read(pizza + b"\tO\n", encoding="utf-8-surrogatepass")[0].words == ("\U0001f355",)
    assert problems_of(read, pizza + b"\tO\n") == [
        "f.tsv:1:1: byte 0xed (offset 0) is not utf-8. "
        "If it is half of a surrogate pair (CESU-8), set encoding: utf-8-surrogatepass"
    ]


def test_half_a_surrogate_pair_is_refused(read):
    assert problems_of(read, b"a\tO\n\xed\xa0\xbc\tO\n", encoding="utf-8-surrogatepass") == [
        "f.tsv:2: '\\ud83c' holds half of a surrogate pair, which is no character"
    ]
    found = problems_of(read, '{"tokens": ["\\ud83c"], "tags": ["O"]}', format="jsonl")
    assert found == ["f.tsv:1: '\\ud83c' holds half of a surrogate pair, which is no character"]


def test_undecodable_bytes_are_named_line_by_line(read):
    assert problems_of(read, b"a\tO\nZ\xfcrich\tO\nok\tO\nK\xf6ln\tO\n") == [
        "f.tsv:2:2: byte 0xfc (offset 5) is not utf-8. If the file is latin-1, set encoding: latin-1",
        "f.tsv:4:2: byte 0xf6 (offset 19) is not utf-8. If the file is latin-1, set encoding: latin-1",
    ]
    (found,) = problems_of(read, "a\tO\n".encode("utf-16-le").join([b"\xff\xfe", b""]))
    assert found.endswith("The file begins like UTF-16: set encoding: utf-16")


@pytest.mark.parametrize("encoding", ["utf8x", "rot13"])
def test_an_unknown_encoding_is_refused(read, encoding):
    assert problems_of(read, "a\tO\n", encoding=encoding) == [
        f'f.tsv: encoding "{encoding}" is not a text encoding that Python knows'
    ]


@pytest.mark.parametrize("content", ["", "\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(read, content):
    assert problems_of(read, content) == ["f.tsv: the file is empty; a data file holds at least one sentence"]


def test_a_file_without_a_sentence_is_refused(read):
    assert problems_of(read, "# only\n", comment_prefix="#") == ["f.tsv: no sentence in this file"]


def test_a_missing_file_is_refused(read, tmp_path):
    Path("train.tsv").write_text("a\tO\n")
    with pytest.raises(DataError, match=r'trian.tsv: no such file. Did you mean "train.tsv"\?'):
        read_sentences(Path("trian.tsv"), SourceFormat(**BIO))
    with pytest.raises(DataError, match="no such file"):
        read_sentences(tmp_path, SourceFormat(**BIO))


def test_a_file_of_insane_size_is_refused(read, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_FILE_BYTES", 3)
    assert problems_of(read, "a\tO\n") == ["f.tsv: 4 bytes; a data file has at most 3. Split it and list the parts."]


def test_an_unknown_format_is_refused(read):
    assert problems_of(read, "a\tO\n", format="conlu")[0].endswith('Did you mean "conllu"?')


def test_a_wrong_scheme_is_told_once_with_the_one_that_fits(read):
    assert problems_of(read, "EU\tI-ORG\n.\tO\n\nUN\tI-ORG\nhq\tI-ORG\n") == [
        'f.tsv: declared iob2, but 2 tags do not fit it (first: line 1, "I-ORG" starts the sentence: iob2 expects '
        '"B-ORG"). Every tag fits iob1 and io: set scheme: iob1'
    ]
    (found,) = problems_of(read, "a\tB-X\nb\tE-X\nc\tS-X\n")
    assert found.endswith("Every tag fits iobes: set scheme: iobes")


def test_ill_formed_tags_are_named_when_no_scheme_fits(read):
    assert problems_of(read, "a\tB-X\n\nb\tO\nc\tI-X\n\nd\tL-X\n") == [
        'f.tsv:4: "I-X" follows "O": iob2 expects "B-X". Fix the line or set repair: begin or drop',
        'f.tsv:6: tag "L-X" is not one of iob2, which knows O, B-TYPE, I-TYPE',
    ]


def test_repair_is_done_on_request_and_never_on_undeclared_tags(read):
    content = "a\tB-X\nb\tO\nc\tI-X\n"
    assert read(content, repair="begin")[0].tags == ("B-X", "O", "B-X")
    assert read(content, repair="drop")[0].tags == ("B-X", "O", "O")
    assert len(problems_of(read, content + "d\tE-X\n", repair="begin")) == 1


def test_an_empty_raw_tag_is_refused(read):
    assert problems_of(read, "a\t\n", scheme="raw") == ["f.tsv:1: the tag is empty"]


def test_every_problem_of_a_file_is_counted_and_twenty_are_shown(read):
    found = problems_of(read, "ok\tO\n\n" + "a\n\n" * 21 + "b\tX\n")
    assert len(found) == 21
    assert found[0].startswith("f.tsv:3: ")
    assert found[19].startswith("f.tsv:41: ")
    assert found[20] == "f.tsv: ... and 2 more"


def test_control_characters_of_a_file_do_not_reach_the_terminal(read):
    (found,) = problems_of(read, "a\x1b[31m\n")
    assert "\x1b" not in found


def test_jsonl_tags_are_brought_to_bio(read):
    content = '{"tokens": ["a", "b"], "tags": ["B-X", "E-X"]}'
    assert read(content, format="jsonl", scheme="iobes")[0].tags == ("B-X", "I-X")


def test_plain_text_has_a_sentence_a_line(read):
    found = read("Don't go.\r\n\n  Stay \n", format="text")
    assert [(s.words, s.tags, s.lines[0]) for s in found] == [
        (("Don", "'", "t", "go", "."), None, 1),
        (("Stay",), None, 3),
    ]


def test_words_cut_at_a_border_are_counted_in_the_log(read, caplog):
    with caplog.at_level(logging.INFO):
        read('{"text": "a pmnear", "spans": [[2, 4, "x"]]}', format="jsonl_spans")
        read("a\tO\n")
    assert caplog.messages == ["f.tsv: words cut in two where an entity begins or ends inside them: 1"]


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        ("a\tB-X\n", BIO),
        ('{"tokens": ["a"], "tags": ["B-X"]}', {"format": "jsonl"}),
        ('{"text": "a", "spans": [[0, 1, "X"]]}', {"format": "jsonl_spans"}),
        ('{"i": [{"data": [{"text": "a", "entity": "X"}]}]}', {"format": "snips"}),
    ],
)
def test_tags_can_be_left_unread(read, content, layout):
    assert read(content, **layout)[0].tags == ("B-X",)
    (raw,) = read_sentences(Path("f.tsv"), SourceFormat(**{**BIO, **layout}).without_gold())
    assert raw.tags is None
    assert raw.words == ("a",)


def count(name: str, layout: dict) -> tuple[int, int, int]:
    if not (DATA / name).is_file():
        pytest.skip(f"{DATA / name} is not there")
    found = read_sentences(DATA / name, SourceFormat(**layout))
    types = {tag.partition("-")[2] or tag for sentence in found for tag in sentence.tags or () if tag != "O"}
    return len(found), sum(len(sentence.words) for sentence in found), len(types)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("wnut17/train.conll", (3394, 62730, 6)),
        ("wnut17/dev.conll", (1009, 15733, 6)),
        ("wnut17/test.annotated", (1287, 23394, 6)),
        ("crossner_ai/train.txt", (100, 3782, 14)),
        ("crossner_ai/dev.txt", (350, 10919, 14)),
        ("crossner_ai/test.txt", (431, 12991, 14)),
        ("crossner_literature/train.txt", (100, 3782, 12)),
        ("crossner_literature/dev.txt", (400, 14503, 12)),
        ("crossner_literature/test.txt", (416, 16157, 12)),
        ("crossner_music/train.txt", (100, 3909, 13)),
        ("crossner_music/dev.txt", (380, 15591, 13)),
        ("crossner_music/test.txt", (465, 19605, 13)),
        ("crossner_politics/train.txt", (200, 8384, 9)),
        ("crossner_politics/dev.txt", (541, 24624, 9)),
        ("crossner_politics/test.txt", (651, 27585, 9)),
        ("ncbi_disease/train.tsv", (5424, 135701, 1)),
        ("ncbi_disease/dev.tsv", (923, 23969, 1)),
        ("ncbi_disease/test.tsv", (940, 24497, 1)),
        ("bc5cdr/train.tsv", (4560, 118170, 2)),
        ("bc5cdr/dev.tsv", (4581, 117453, 2)),
        ("bc5cdr/test.tsv", (4797, 124750, 2)),
        ("bc2gm/train.tsv", (12574, 355405, 1)),
        ("bc2gm/dev.tsv", (2519, 71042, 1)),
        ("bc2gm/test.tsv", (5038, 143465, 1)),
    ],
)
def test_real_bio_files(name, counts):
    assert count(name, BIO) == counts


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("wikigold/all.conll.txt", (1696, 39007, 4)),
        ("sec_filings/train.txt", (1164, 41010, 4)),
        ("sec_filings/test.txt", (303, 13246, 4)),
    ],
)
def test_real_iob1_files(name, counts):
    assert count(name, OLD) == counts


def test_real_documents_are_counted():
    if not (DATA / "wikigold").is_dir():
        pytest.skip(f"{DATA / 'wikigold'} is not there")
    found = read_sentences(DATA / "wikigold/all.conll.txt", SourceFormat(**OLD))
    assert len({sentence.document for sentence in found}) == 145  # the file ends with its 145th mark
    assert found[-1].document == 144


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("ud_ewt/train.conllu", (12544, 204577, 17)),
        ("ud_ewt/dev.conllu", (2001, 25147, 17)),
        ("ud_ewt/test.conllu", (2077, 25094, 17)),
    ],
)
def test_real_conllu_files(name, counts):
    assert count(name, {"format": "conllu", "tag_column": "upos"}) == counts


SNIPS = {
    "AddToPlaylist": (1942, 100, 5),
    "BookRestaurant": (1973, 100, 14),
    "GetWeather": (2000, 100, 9),
    "PlayMusic": (2000, 100, 9),
    "RateBook": (1956, 100, 7),
    "SearchCreativeWork": (1954, 100, 2),
    "SearchScreeningEvent": (1959, 100, 7),
}


@pytest.mark.parametrize("intent", SNIPS)
def test_real_snips_files(intent, caplog):
    train, test, types = SNIPS[intent]
    layout = {"format": "snips", "encoding": "utf-8-surrogatepass"}
    with caplog.at_level(logging.INFO):
        assert count(f"snips/train_{intent}.json", layout)[::2] == (train, types)
        assert count(f"snips/test_{intent}.json", layout)[::2] == (test, types)
    # Two slots stand together without a space in one utterance of each of three test files.
    assert len(caplog.messages) == (intent in ("GetWeather", "PlayMusic", "SearchScreeningEvent"))


def test_real_snips_surrogates_are_one_pizza():
    path = DATA / "snips/train_PlayMusic.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    found = read_sentences(path, SourceFormat(format="snips", encoding="utf-8-surrogatepass"))
    assert [sentence.where for sentence in found if "\U0001f355" in sentence.words] == [f"{path}:9085"]


@pytest.mark.parametrize(("name", "counts"), [("hwu64/train.json", (9960, 54)), ("hwu64/test.json", (1076, 45))])
def test_real_rasa_files(name, counts):
    assert count(name, {"format": "rasa"})[::2] == counts
