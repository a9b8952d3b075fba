import pytest
import torch
from transformers import AutoConfig

import backbone_step
from backbone_step import FAMILIES, prompted_step, stock_step
from mpt.base.errors import ConfigError

SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_both_models_take_steps_one_after_the_other(family, dtype):
    config = AutoConfig.for_model(family, vocab_size=1000, max_position_embeddings=512, **SIZES, **FAMILIES[family])
    ids = torch.arange(5, 17).view(2, 6)
    for step in (stock_step(config, dtype, ids), prompted_step(config, dtype, ids, 3)) * 2:
        assert backbone_step.seconds(step) > 0


def test_an_unknown_family_is_told():
    with pytest.raises(ConfigError, match=r'--family "berd" is not one of bert, deberta, deberta-v2\.'):
        backbone_step.run(family="berd")


def test_families_take_turns_with_their_stock_model(capsys, monkeypatch):
    monkeypatch.setattr(backbone_step, "SIZES", SIZES)
    backbone_step.run(family="bert", rows=2, pieces=4, prompt_length=2, dtype="float32", rounds=2)
    told = capsys.readouterr().out
    assert "times the stock" in told and "bert" in told and "transformers" in told
