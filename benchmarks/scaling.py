"""What a step sends between ranks and how long it takes by calculation: the tables of docs/scaling.md.

Nothing is measured here. What is sent follows from the code (`mpt/training/gradients.py`, `mpt/training/zero.py`,
`mpt/model/backbone/sharding.py`); speeds are the vendors' figures times an assumed share.

python benchmarks/scaling.py
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log2

from program import run_program

PROMPT_LENGTH, LABELS, TASKS = 32, 15, 16
"""Virtual tokens; labels of each head; tasks of the mixture, all of them in every step."""

POSITIONS = 8192  # of a micro-batch; every rank computes one a step
FLOPS = 0.4 * 989e12  # operations a second; H100 and H200 SXM, bfloat16 without sparsity
NVLINK = 0.8 * 450e9  # bytes a second and direction, GPUs of one machine
INFINIBAND = 0.8 * 50e9  # the same between machines: 400 Gb/s for each GPU
HOP = 10e-6  # seconds; an exchange among W ranks waits log2(W) of them
MACHINE = 8  # GPUs of one machine
RANKS = (8, 64, 256, 1024)
WAYS = ("ordered", "all_reduce", "ZeRO-1, -2", "ZeRO-3", "FSDP2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A backbone.

    Attributes:
        name: What it is called.
        weights: All of its parameters.
        layers: Layers, all of them prompted.
        hidden: Size of its outputs, which heads read.
        keys: Size of a layer's keys: key-value heads times their size.
    """

    name: str
    weights: float
    layers: int
    hidden: int
    keys: int

    @property
    def prompt(self) -> int:
        """Values of the prompt."""
        return self.layers * 2 * self.keys * PROMPT_LENGTH

    @property
    def head(self) -> int:
        """Values of one head."""
        return (self.hidden + 1) * LABELS


SHAPES = (
    Shape(name="BERT-large, 340M", weights=340e6, layers=24, hidden=1024, keys=1024),
    Shape(name="Llama-3.2-1B", weights=1.24e9, layers=16, hidden=2048, keys=512),
    Shape(name="XLM-R-XL, 3.5B", weights=3.5e9, layers=36, hidden=2560, keys=2560),
    Shape(name="XLM-R-XXL, 10.7B", weights=10.7e9, layers=48, hidden=4096, keys=4096),
)


def received(shape: Shape, way: str, ranks: int) -> float:
    """Bytes that a rank receives in a step of one micro-batch a rank; it sends as many."""
    others = (ranks - 1) / ranks
    gather = others * ranks * 4 * (shape.prompt + shape.head + 1)
    trained = 4 * (shape.prompt + TASKS * shape.head)
    layers = others * 2 * 2 * shape.weights  # bfloat16, for the forward and again for the backward pass
    return {
        "ordered": gather,
        "all_reduce": 2 * others * (trained + 4 * ranks),
        "ZeRO-1, -2": gather + 2 * others * trained,
        "ZeRO-3": gather + 2 * others * trained + layers,
        "FSDP2": gather + layers,
    }[way]


def bandwidth(ranks: int) -> float:
    """Bytes a second of the slowest link that an exchange among so many ranks passes."""
    return NVLINK if ranks <= MACHINE else INFINIBAND


def compute_seconds(shape: Shape) -> float:
    """A micro-batch: two operations a weight and position forward, two for the gradient of its input."""
    return 4 * shape.weights * POSITIONS / FLOPS


def step_seconds(shape: Shape, way: str, ranks: int) -> float:
    """A step, nothing sent while something is computed."""
    exchanges = {"ordered": 1, "all_reduce": 1, "ZeRO-1, -2": 3}.get(way, 3 + 2 * shape.layers)
    sent = received(shape, way, ranks) / bandwidth(ranks)
    return compute_seconds(shape) + sent + exchanges * HOP * log2(ranks)


def most_ranks(shape: Shape, *, link: float, share: float = 0.1) -> int:
    """Up to how many ranks an ordered sum takes at most this share of the time that is computed."""
    vector = 4 * (shape.prompt + shape.head + 1)
    return 1 + floor(share * compute_seconds(shape) * link / vector)


def bytes_table() -> str:
    """Megabytes that a rank receives in a step."""
    return _table("MB", lambda shape, way, ranks: f"{received(shape, way, ranks) / 1e6:,.0f}")


def seconds_table() -> str:
    """Milliseconds of a step."""
    return _table("ms", lambda shape, way, ranks: f"{1000 * step_seconds(shape, way, ranks):,.0f}")


def ranks_table() -> str:
    """Where an ordered sum costs a tenth of what is computed."""
    rows = [
        [
            shape.name,
            f"{4 * (shape.prompt + shape.head + 1) / 1e6:.1f}",
            f"{1000 * compute_seconds(shape):,.0f}",
            f"{most_ranks(shape, link=INFINIBAND):,}",
            f"{most_ranks(shape, link=NVLINK):,}",
        ]
        for shape in SHAPES
    ]
    return _markdown(["backbone", "MB a vector", "ms computed", "ranks over InfiniBand", "ranks over NVLink"], rows)


def _table(unit: str, cell: Callable[[Shape, str, int], str]) -> str:
    rows = [
        [shape.name, f"{ranks:,}", *(cell(shape, way, ranks) for way in WAYS)] for shape in SHAPES for ranks in RANKS
    ]
    return _markdown(["backbone", f"GPUs ({unit})", *WAYS], rows)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run() -> None:
    """Print the tables."""
    print("\n\n".join((bytes_table(), seconds_table(), ranks_table())))


if __name__ == "__main__":
    run_program(run)
