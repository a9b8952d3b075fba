import pytest

from mpt.base import errors
from mpt.base.errors import ConfigError, DataError, MptError, did_you_mean, every, printable


def test_one_problem():
    error = MptError("run.yaml: wrong")
    assert (str(error), error.problems) == ("run.yaml: wrong", ["run.yaml: wrong"])


def test_several_problems_are_lines():
    error = MptError(["a: wrong", "b: wrong"])
    assert str(error) == "a: wrong\nb: wrong"
    assert error.problems == ["a: wrong", "b: wrong"]


def test_no_problem_is_no_error():
    with pytest.raises(AssertionError):
        MptError([])


def test_every_error_of_a_user_is_one_class():
    # A rank that fails because another has failed says nothing to the user: the other one does.
    names = {name for name in vars(errors) if name.endswith("Error")} - {"MptError", "PeerError"}
    assert len(names) == 8
    assert all(issubclass(getattr(errors, name), MptError) for name in names)
    assert issubclass(MptError, ValueError)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e9\u4e2d", "plain \u00e9\u4e2d"),
        ("two\nlines", "two\nlines"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\rb\x00\x7f", r"a\rb\x00\x7f"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u200b", r"\u200b"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown
    assert str(MptError(text)) == shown


@pytest.mark.parametrize(
    ("word", "hint"),
    [("peple", ' Did you mean "people"?'), ("people", ' Did you mean "people"?'), ("zebra", ""), ("", "")],
)
def test_the_nearest_word_is_suggested_where_one_is_near(word, hint):
    assert did_you_mean(word, ["places", "people"]) == hint


def test_nothing_is_near_to_nothing():
    assert did_you_mean("people", []) == ""


def test_every_item_is_tried_and_all_problems_are_told_at_once():
    tried = []

    def work(item):
        tried.append(item)
        if item > 1:
            raise ConfigError(f"{item} is too large")
        return 10 * item

    assert every(work, [0, 1]) == [0, 10]
    with pytest.raises(ConfigError) as raised:
        every(work, [2, 0, 3])
    assert raised.value.problems == ["2 is too large", "3 is too large"]
    assert tried == [0, 1, 2, 0, 3]


def test_nothing_but_a_users_error_is_collected():
    def work(item):
        raise KeyError(item) if item else DataError("wrong")

    with pytest.raises(KeyError):
        every(work, [0, 1])
