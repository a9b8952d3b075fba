import pytest

from mpt.base.errors import ConfigError
from mpt.serving.layout import input_layout
from mpt.serving.predictor import Predictor
from mpt.serving.saved import open_saved


@pytest.fixture(scope="module")
def predictor(world):
    return Predictor(open_saved(world.run), "places")


def test_the_training_data_say_it_when_the_user_does_not(predictor):
    layout = input_layout(predictor, None)
    assert (layout.format, layout.word_column, layout.tag_column, layout.scheme) == ("conll", 0, 1, "iob2")


def test_columns_as_the_user_says(predictor):
    layout = input_layout(predictor, "conll", word_column=2, tag_column=0, delimiter="tab")
    assert (layout.word_column, layout.tag_column, layout.delimiter) == (2, 0, "tab")


@pytest.mark.parametrize("name", ["text", "conllu", "jsonl", "jsonl_spans", "snips", "rasa"])
def test_every_other_format_by_its_name(predictor, name):
    layout = input_layout(predictor, name)
    assert (layout.format, layout.scheme) == (name, "iob2")


def test_an_unknown_format_suggests_the_nearest(predictor):
    with pytest.raises(ConfigError) as caught:
        input_layout(predictor, "conl")
    assert '--format "conl" is not one of ' in str(caught.value)
    assert str(caught.value).endswith('Did you mean "conll"?')
