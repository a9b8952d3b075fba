"""Templates and verbalizers: a text becomes a sentence with a gap, and a word for the gap stands for each label.

Schick and Schuetze 2021 (arXiv 2001.07676) call them pattern and verbalizer. Nothing here knows a tokenizer.
"""

import re
from collections.abc import Mapping, Sequence

from mpt.base.errors import did_you_mean

MASK, TEXT, PAIR = "{mask}", "{text}", "{pair}"
_FIELD = re.compile(r"(\{\w*\})")


def default_template(*, pair: bool) -> str:
    """The texts, then the gap as the last word of a sentence."""
    return f"{TEXT} {PAIR} {MASK}." if pair else f"{TEXT} {MASK}."


def parts_of(template: str) -> list[str]:
    """The fields of a template and what is between them, in order."""
    return [part for part in _FIELD.split(template) if part]


def template_problem(template: str, *, pair: bool) -> str | None:
    """What is wrong with a template, if anything; `pair` tells whether there are two texts."""
    wanted = (TEXT, PAIR, MASK) if pair else (TEXT, MASK)
    fields = [part for part in parts_of(template) if _FIELD.fullmatch(part)]
    for field in fields:
        if field == PAIR and not pair:
            return f'"{template}" holds {PAIR}, but fields.pair names no second text. Set it, or remove {PAIR}.'
        if field not in wanted:
            near = did_you_mean(field, wanted)
            return f'"{template}" holds {field}, which is none of {", ".join(wanted)}.{near or " Correct it."}'
    counts = [f"{field} {fields.count(field)}x" for field in wanted if fields.count(field) != 1]
    if counts:
        return f'"{template}" must hold each of {", ".join(wanted)} once, got {", ".join(counts)}.'
    return None


def verbalizer_problem(words: Mapping[str, str], labels: Sequence[str] | None) -> str | None:
    """What is wrong with the words for labels, if anything; without `labels`, the verbalizer itself lists them."""
    missing = [label for label in labels or () if label not in words]
    foreign = [label for label in words if labels is not None and label not in labels]
    blank = [label for label, word in words.items() if not word or word != word.strip()]
    repeated = sorted({word for word in words.values() if [*words.values()].count(word) > 1})
    if missing or foreign:
        told = f"without a word: {', '.join(missing) or 'none'}; not in labels: {', '.join(foreign) or 'none'}"
        return f"needs one word for each of labels ({told}). Make them equal, or leave out labels."
    if blank:
        return f"the word of {', '.join(blank)} is empty or has spaces around it. Give the bare word."
    if repeated:
        return f"{', '.join(repeated)} stands for several labels. Give each label a word of its own."
    return None
