"""What a predicate's arguments are, as the shared tasks on semantic roles count them.

The predicate's own span (V) is no argument. `C-X` continues the last `X` before it, and both are one argument in
pieces, right only when all pieces are; where there is no such `X`, it is one. `R-X` (a relative pronoun, for one) is a
role of its own.

Source:
    Carreras and Marquez 2005, "Introduction to the CoNLL-2005 Shared Task: Semantic Role Labeling", and its scorer
    srl-eval.pl.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from mpt.data.tags import Span

PREDICATE = "V"
CONTINUED = "C-"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Argument:
    """One argument of a predicate.

    Attributes:
        start: Its first word.
        end: Behind the last word of its last piece.
        type: Its role.
        pieces: (first word, word behind the last) of each piece, in order.
    """

    start: int
    end: int
    type: str
    pieces: tuple[tuple[int, int], ...]


Scored: TypeAlias = Span | Argument
"""What F1 counts: spans, or arguments."""


def role_of(label: str) -> str:
    """The role that a span stands for: that of what it continues."""
    return label.removeprefix(CONTINUED)


def is_argument(label: str) -> bool:
    """Whether spans of this label count, alone or as a piece."""
    return role_of(label) != PREDICATE


def arguments(spans: Iterable[Span]) -> frozenset[Argument]:
    """The arguments of one predicate, given the spans of its sentence."""
    found: list[tuple[str, list[tuple[int, int]]]] = []
    last: dict[str, list[tuple[int, int]]] = {}
    for span in sorted(spans):
        role, piece = role_of(span.type), (span.start, span.end)
        if span.type != role and role in last:
            last[role].append(piece)
        else:
            last[role] = [piece]
            found.append((role, last[role]))
    return frozenset(
        Argument(start=pieces[0][0], end=pieces[-1][1], type=role, pieces=tuple(pieces))
        for role, pieces in found
        if role != PREDICATE
    )
