"""Every mistake of `common.bad_input` through the real command line, and docs/errors.md, which shows them."""

import re
from pathlib import Path

import pytest
from common.bad_input import (
    CASES,
    MIXTURE,
    PRETRAIN,
    TRAIN,
    call,
    edit,
    long_sentence,
    page,
    prepare,
    replace_once,
    shown,
    write_sound,
)

DOCUMENT = Path(__file__).parents[1] / "docs" / "errors.md"
RENEW = "In tests/: python -m common.bad_input > ../docs/errors.md"


@pytest.fixture(scope="module")
def sound(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_sound(folder, world.data, world.backbone)
    return folder


@pytest.fixture
def here(sound, tmp_path):
    """A copy of what is sound, as the current folder."""
    prepare(sound, tmp_path)
    return tmp_path


def documented(case):
    """The message that the page shows for a case."""
    _, _, topic = f"\n{DOCUMENT.read_text()}".partition(f"\n## {case.topic}\n")
    _, _, rest = topic.partition(f"\n### {case.what}\n")
    found = re.match(r"\n```text\n\$ mpt .*\n((?s:.*?))\n```\n", rest)
    assert found, f"docs/errors.md does not show: {case.what}. {RENEW}"
    return found[1]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.topic}: {case.what}" for case in CASES])
def test_a_mistake_is_told(here, case):
    case.change()
    before = {path for path in here.rglob("*") if "__pycache__" not in path.parts}
    status, _, err = call(*case.command)
    assert status == 2
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for part in case.parts:
        assert part in err, err
    assert {path for path in here.rglob("*") if "__pycache__" not in path.parts} == before, "nothing is left behind"
    assert shown(err) == documented(case), RENEW


def test_the_page_is_the_cases_in_their_order():
    messages = {(case.topic, case.what): documented(case) for case in CASES}
    assert DOCUMENT.read_text() == page(messages), RENEW


def test_a_word_without_word_pieces_is_handled_with_a_notice(here):
    replace_once(TRAIN, "Ada B-PER", "\u200b O")
    status, out, err = call(*PRETRAIN)
    assert (status, err) == (0, "")
    assert re.search(
        r'note: task "people" train: .*without a word piece.*read as the unknown piece.*data/people/train\.txt:2', out
    )


def test_a_long_sentence_is_windowed_with_a_notice(here):
    long_sentence()
    status, out, err = call(*PRETRAIN)
    assert (status, err) == (0, "")
    assert re.search(r'note: task "people" train: .*62 word pieces.*windows.*train\.txt:1 \(40 words', out)


def test_validate_tells_all_problems_of_all_files(here):
    replace_once(TRAIN, "Ada B-PER", "Ada")
    replace_once(Path("data/words/dev.txt"), "in ADP", "in")
    edit(lambda tasks: tasks["places"]["files"].update(train="places/gone.txt"))
    status, _, err = call("validate", str(MIXTURE))
    assert status == 2
    for part in ("people/train.txt:2: line has 1 column", "words/dev.txt:", '"places/gone.txt" not found', "not valid"):
        assert part in err


def test_labels_cannot_write_to_the_terminal(here):
    replace_once(TRAIN, "Ada B-PER", "Ada \x1b[31mPER")
    status, _, err = call(*PRETRAIN)
    assert status == 2
    assert "\x1b" not in err
    assert r"\x1b[31mPER" in err
