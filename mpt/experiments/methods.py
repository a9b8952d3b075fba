"""The methods that can be compared: what each of them trains besides the head of the task.

All of them have the same trainer, data, order and evaluation; a method is this row of facts and nothing else.
"""

from dataclasses import dataclass
from typing import Literal

from mpt.base.errors import did_you_mean

Rate = Literal["prompt", "backbone", "head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to train a model for a task.

    Attributes:
        name: In configurations, folders and tables.
        about: One line for people.
        prompt: Where its virtual tokens are: "deep" in the attention of every prompted layer, "shallow" before the
            input of the first layer; None without.
        weights: Which of the backbone's own weights it trains: "all", the "biases", or "lora", low-rank updates of
            linear layers; None for a frozen backbone.
        pretrained: Prompt and head start from the pretrained ones; else both start fresh.
        shifted: The text starts behind the prompt's positions, whatever the pretrained prompt does.
        initialisation: Where a fresh prompt starts, if not where the pretrained one did.
        reparameterisation: The network that the prompt always comes out of while it is trained.
    """

    name: str
    about: str
    prompt: Literal["deep", "shallow"] | None = None
    weights: Literal["all", "biases", "lora"] | None = None
    pretrained: bool = False
    shifted: bool = False
    initialisation: Literal["normal_1"] | None = None
    reparameterisation: Literal["lstm"] | None = None

    @property
    def rates(self) -> tuple[Rate, ...]:
        """The learning rates that it has."""
        prompt: tuple[Rate, ...] = ("prompt",) if self.prompt else ()
        backbone: tuple[Rate, ...] = ("backbone",) if self.weights else ()
        return (*prompt, *backbone, "head")


HEAD = Method(name="head", about="a linear head on the frozen backbone")
BITFIT = Method(name="bitfit", about="the backbone's biases (BitFit, arXiv:2106.10199)", weights="biases")
LORA = Method(name="lora", about="low-rank updates of linear layers, through PEFT (arXiv:2106.09685)", weights="lora")
FINE_TUNING = Method(name="fine-tuning", about="all weights of the backbone", weights="all")
PROMPT_TUNING = Method(
    name="prompt-tuning",
    about="virtual tokens before the input of the first layer alone (arXiv:2104.08691)",
    prompt="shallow",
    shifted=True,
)
P_TUNING = Method(
    name="p-tuning",
    about="such virtual tokens that come out of an LSTM (P-tuning, arXiv:2103.10385)",
    prompt="shallow",
    shifted=True,
    reparameterisation="lstm",
)
PREFIX_TUNING = Method(
    name="prefix-tuning",
    about="deep prompts as PEFT has them: positions shifted, N(0, 1) at the start (arXiv:2101.00190)",
    prompt="deep",
    shifted=True,
    initialisation="normal_1",
)
SCRATCH = Method(name="scratch", about="a fresh deep prompt (P-Tuning v2, arXiv:2110.07602)", prompt="deep")
TRANSFER = Method(name="transfer", about="the pretrained deep prompt (MPT-2)", prompt="deep", pretrained=True)

METHODS = {
    method.name: method
    for method in (HEAD, BITFIT, LORA, FINE_TUNING, PROMPT_TUNING, P_TUNING, PREFIX_TUNING, SCRATCH, TRANSFER)
}
"""By name, in the order of tables: baselines first."""
BASELINES = tuple(name for name, method in METHODS.items() if not method.pretrained)


def baseline(name: str) -> str:
    """The name of a baseline.

    Raises:
        ValueError: There is none of that name; names the known ones.
    """
    return _known(name, BASELINES)


def method(name: str) -> str:
    """The name of a method.

    Raises:
        ValueError: There is none of that name; names the known ones.
    """
    return _known(name, tuple(METHODS))


def _known(name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ValueError(f'"{name}" is not one of {", ".join(names)}.{did_you_mean(name, names)}')
    return name
