"""What prompts add to a step of a backbone: forward and backward beside transformers' own model without prompts.

Random weights, one process, the two models in turn; a ratio is that of two steps of one round. Both are frozen. The
gradient goes to the prompts of all layers, in the stock model to the embeddings of its pieces, so it crosses all layers
in both.

python benchmarks/backbone_step.py --family deberta-v2
"""

import time
from collections.abc import Callable
from copy import deepcopy
from statistics import median, quantiles
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from clock import describe_machine
from mpt.model.backbone.attention import ATTENTION, register
from mpt.model.backbone.deberta import adapt, cast_biases
from mpt.model.backbone.forward import ForwardPass, LayerPrompt, Running, tie
from mpt.model.backbone.precision import DTYPES
from mpt.model.backbone.stack import install
from program import named_arms, open_console, run_program, say, versions

SIZES = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
RELATIVE = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "deberta": RELATIVE | {"max_relative_positions": 512},
    # As deberta-v3-small and its larger siblings.
    "deberta-v2": RELATIVE | {"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True},
}


def run(
    family: Annotated[str, typer.Option(help="Families, with commas between.")] = ",".join(FAMILIES),
    rows: Annotated[int, typer.Option(min=1, help="Texts of a step.")] = 32,
    pieces: Annotated[int, typer.Option(min=1, help="Word pieces of a text.")] = 32,
    prompt_length: Annotated[int, typer.Option(min=1, help="Virtual tokens.")] = 16,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    rounds: Annotated[int, typer.Option(min=2, help="Steps of each model that count.")] = 15,
) -> None:
    """Compare a step with prompts to one of the stock model without."""
    console = open_console()
    table = Table(title=f"{rows} texts of {pieces} pieces, {prompt_length} virtual tokens, {dtype}, {rounds} rounds")
    for column in ("family", "stock, ms", "with prompts, ms", "times the stock", "quartiles"):
        table.add_column(column, justify="right")
    kind = DTYPES[named_arms(dtype, tuple(DTYPES), option="--dtype")[0]]
    ids = torch.randint(5, 1000, (rows, pieces), generator=torch.Generator().manual_seed(0))
    for name in named_arms(family, tuple(FAMILIES), option="--family"):
        config = AutoConfig.for_model(name, vocab_size=1000, max_position_embeddings=512, **SIZES, **FAMILIES[name])
        steps = (stock_step(config, kind, ids), prompted_step(config, kind, ids, prompt_length))
        times = [[seconds(step) for step in steps] for _ in range(rounds + 2)][2:]
        ratios = [prompted / stock for stock, prompted in times]
        first, _, third = quantiles(ratios, n=4)
        middle = [1000 * median(column) for column in zip(*times, strict=True)]
        table.add_row(
            name, f"{middle[0]:.0f}", f"{middle[1]:.0f}", f"{median(ratios):.2f}", f"{first:.2f} to {third:.2f}"
        )
    console.print(table)
    say(console, f"{describe_machine(torch.device('cpu'))}; {versions()}")


def stock_step(config: PreTrainedConfig, dtype: torch.dtype, ids: torch.Tensor) -> Callable[[], None]:
    """Forward and backward through transformers' model, to its embeddings."""
    model = _frozen(config, dtype, None)
    embeddings = model.get_input_embeddings()(ids).requires_grad_()

    def step() -> None:
        embeddings.grad = None
        model(inputs_embeds=embeddings).last_hidden_state.float().square().mean().backward()

    return step


def prompted_step(config: PreTrainedConfig, dtype: torch.dtype, ids: torch.Tensor, length: int) -> Callable[[], None]:
    """Forward and backward through the same model with prompts, to the prompts of all layers."""
    register()
    model = _frozen(config, dtype, ATTENTION)
    running = Running()
    tie(model, running)
    adapt(model, reference=config.model_type)
    layers = install(model, running, reference=config.model_type)
    _, heads, _, size = layers.text_keys.shape
    shape = (layers.num_layers, 2, heads, length, size)
    prompt = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def step() -> None:
        prompt.grad = None
        parts = enumerate(prompt.to(dtype))
        prompts = {layer: LayerPrompt(keys=keys[None], values=values[None]) for layer, (keys, values) in parts}
        running.begin(ForwardPass(prompts=prompts), ids.device)
        model(input_ids=ids).last_hidden_state.float().square().mean().backward()

    return step


def _frozen(config: PreTrainedConfig, dtype: torch.dtype, attention: str | None) -> Any:
    torch.manual_seed(0)
    model: Any = AutoModel.from_config(
        deepcopy(config), dtype=dtype, attn_implementation=attention, trust_remote_code=False
    )
    cast_biases(model, dtype)
    return model.eval().requires_grad_(False)


def seconds(step: Callable[[], None]) -> float:
    """Time of one step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


if __name__ == "__main__":
    run_program(run)
