import pytest
from common.runs import make_parts
from mpt.experiments.prompts import prompt_shape

from mpt.base.errors import ConfigError
from mpt.base.settings import PromptSettings


@pytest.fixture(scope="module")
def parts(world):
    return make_parts(world)


def shape(parts, layers):
    return prompt_shape(parts.tagger.backbone, PromptSettings(length=5, layers=layers))


def test_prompt_layers(parts):
    assert shape(parts, "all").layers == (0, 1)
    assert shape(parts, 1).layers == (1,), "a number counts from the top"
    assert shape(parts, (0,)).layers == (0,)
    assert shape(parts, "all").tensor_shape == (2, 2, 2, 5, 16)


@pytest.mark.parametrize("layers", [3, (2,), (1, 0), (0, 0), ()])
def test_prompt_layers_that_the_backbone_does_not_have(parts, layers):
    with pytest.raises(ConfigError) as caught:
        shape(parts, layers)
    assert f"prompt.layers: {layers} over a backbone of 2 layers. Expected all, a number" in str(caught.value)
