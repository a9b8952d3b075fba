import pytest

from mpt import errors
from mpt.errors import MptError, did_you_mean, printable


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
