"""The methods that can be trained and compared: which parts of a task state, and from which start.

All of them have the same trainer, data, order and evaluation; a method is this row of facts and nothing else.
"""

from dataclasses import dataclass
from typing import Literal

from mpt.base.errors import did_you_mean
from mpt.base.settings import PartKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to train a model for tasks.

    Attributes:
        name: In configurations, folders and tables.
        about: One line for people.
        parts: Of the task state that it trains besides heads; none leaves the backbone bare.
        pretrained: State and heads start from pretrained ones, whose parts they have; else fresh.
        biases: Of the backbone's weights it trains only biases.
        targets: Which linear layers it updates, where the settings do not say.
        shifted: The text starts behind the prompt's positions, whatever the pretrained prompt does.
        initialisation: Where a fresh prompt starts, if not where the pretrained one did.
        reparameterisation: The network that the prompt always comes out of while it is trained.
    """

    name: str
    about: str
    parts: tuple[PartKind, ...] = ()
    pretrained: bool = False
    biases: bool = False
    targets: Literal["all", "peft"] = "all"
    shifted: bool = False
    initialisation: Literal["normal_1"] | None = None
    reparameterisation: Literal["lstm"] | None = None


METHODS = {
    method.name: method
    for method in (
        Method(name="head", about="a linear head on the frozen backbone"),
        Method(
            name="bitfit", about="the backbone's biases (BitFit, arXiv:2106.10199)", parts=("weights",), biases=True
        ),
        Method(
            name="lora",
            about="low-rank updates of the linear layers that PEFT takes (LoRA, arXiv:2106.09685)",
            parts=("low_rank",),
            targets="peft",
        ),
        Method(name="low-rank", about="low-rank updates of all linear layers", parts=("low_rank",)),
        Method(
            name="prompt+low-rank",
            about="a deep prompt and low-rank updates of all linear layers",
            parts=("prompt", "low_rank"),
        ),
        Method(name="fine-tuning", about="all weights of the backbone", parts=("weights",)),
        Method(
            name="prompt-tuning",
            about="virtual tokens before the input of the first layer alone (arXiv:2104.08691)",
            parts=("input",),
            shifted=True,
        ),
        Method(
            name="p-tuning",
            about="such virtual tokens that come out of an LSTM (P-tuning, arXiv:2103.10385)",
            parts=("input",),
            shifted=True,
            reparameterisation="lstm",
        ),
        Method(
            name="prefix-tuning",
            about="deep prompts as PEFT has them: positions shifted, N(0, 1) at the start (arXiv:2101.00190)",
            parts=("prompt",),
            shifted=True,
            initialisation="normal_1",
        ),
        Method(name="scratch", about="a fresh deep prompt (P-Tuning v2, arXiv:2110.07602)", parts=("prompt",)),
        Method(name="transfer", about="the pretrained task state (MPT-2, where it is a deep prompt)", pretrained=True),
    )
}
"""By name, in the order of tables: baselines first."""
SCRATCH, TRANSFER = METHODS["scratch"], METHODS["transfer"]
BASELINES = tuple(name for name, method in METHODS.items() if not method.pretrained)
PRETRAINABLE = ("prompt", *(name for name in BASELINES if name != "scratch"))
"""What a pretraining may train: "prompt" is a deep prompt, what "scratch" is beside a transfer."""


def trained_by(name: str) -> Method:
    """The method of a pretraining by the name that its configuration has."""
    return METHODS["scratch" if name == "prompt" else name]


def baseline(name: str) -> str:
    """The name of a baseline; refuses others, as do `method` and `pretrainable`, with a ValueError that names all."""
    return _known("scratch" if name == "prompt" else name, BASELINES)


def method(name: str) -> str:
    """The name of a method."""
    return _known("scratch" if name == "prompt" else name, tuple(METHODS))


def pretrainable(name: str) -> str:
    """The name of a method that a pretraining may train."""
    return _known("prompt" if name == "scratch" else name, PRETRAINABLE)


def _known(name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ValueError(f'"{name}" is not one of {", ".join(names)}.{did_you_mean(name, names)}')
    return name
