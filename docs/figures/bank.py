"""Draw bank.png, which shows what a deep prompt, a task state and a bank are: python docs/figures/bank.py."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

FROZEN, STATE, HEAD, TEXT = "#d9dde3", "#f4b183", "#a9d18e", "#ffffff"
SLOTS = ("#f4b183", "#9dc3e6", "#c5a5d8")


def box(axes: Axes, x: float, y: float, width: float, height: float, color: str, text: str = "", size: int = 9) -> None:
    """A rounded box with a text in its middle."""
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.01,rounding_size=0.06", fc=color, ec="#444444")
    axes.add_patch(shape)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def layer(axes: Axes) -> None:
    """One layer: the prompt's keys and values before the text's, low-rank updates beside the linear layers."""
    axes.set_title("A task state, in every layer of the frozen backbone", fontsize=11)
    box(axes, 0.2, 0.3, 5.6, 3.9, FROZEN)
    axes.text(3.0, 4.3, "one layer", ha="center", fontsize=9, style="italic")
    axes.text(0.4, 3.75, "attention sees these keys and values:", fontsize=8.5)
    for number in range(2):
        box(axes, 0.4 + 0.62 * number, 2.95, 0.52, 0.6, STATE)
    for number, word in enumerate(("Ada", "went", "to", "Kiev")):
        box(axes, 1.9 + 0.92 * number, 2.95, 0.82, 0.6, TEXT, word)
    axes.text(0.98, 2.6, "deep prompt", ha="center", fontsize=8.5, color="#b3541e")
    axes.text(3.7, 2.6, "the text's own", ha="center", fontsize=8.5)
    box(axes, 0.6, 0.7, 2.3, 1.2, TEXT, "linear layer\nW (frozen)")
    axes.text(3.2, 1.28, "+", ha="center", va="center", fontsize=14)
    box(axes, 3.5, 0.8, 0.55, 1.0, STATE, "A")
    box(axes, 4.2, 1.05, 1.1, 0.5, STATE, "B")
    axes.text(4.4, 2.0, "low-rank update", ha="center", fontsize=8.5, color="#b3541e")
    axes.text(3.0, -0.15, "orange: trained, a megabyte a task", ha="center", fontsize=9, color="#b3541e")


def bank(axes: Axes) -> None:
    """Rows of a batch, each with its slot's state and its task's head, through one backbone."""
    axes.set_title("A bank: every row of a batch names its slot and its task", fontsize=11)
    rows = ("row 1: a contract", "row 2: a tweet", "row 3: an abstract")
    tasks = ("head: sec_filings", "head: wnut17", "head: bc2gm")
    for number, (row, task, color) in enumerate(zip(rows, tasks, SLOTS, strict=True)):
        y = 3.2 - 1.15 * number
        box(axes, 0.1, y, 1.9, 0.8, TEXT, row)
        box(axes, 2.2, y, 1.0, 0.8, color, f"slot {number}")
        box(axes, 5.3, y, 1.9, 0.8, HEAD, task)
        axes.annotate("", (5.3, y + 0.4), (4.95, y + 0.4), arrowprops={"arrowstyle": "->"})
    box(axes, 3.4, 0.75, 1.5, 3.4, FROZEN, "one frozen\nbackbone,\none pass")
    axes.text(3.7, 0.2, "slots are added and removed in milliseconds", ha="center", fontsize=9)


def main() -> None:
    """Draw both halves side by side."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.2), width_ratios=(6, 7.4))
    for axes, width, draw in ((left, 6.0, layer), (right, 7.3, bank)):
        axes.set_xlim(0, width)
        axes.set_ylim(-0.4, 4.6)
        axes.axis("off")
        draw(axes)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("bank.png"), dpi=110)


if __name__ == "__main__":
    main()
