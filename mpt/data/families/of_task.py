"""Which family's object a task gets."""

from collections.abc import Mapping

from mpt.data.families.family import Unit
from mpt.data.families.passages import PassageFamily
from mpt.data.families.task_family import TaskFamily
from mpt.data.families.texts import ChoiceFamily, TextFamily
from mpt.data.families.words import WordFamily
from mpt.data.manifest.task_spec import TaskSpec

FAMILY_OF_UNIT: Mapping[Unit, type[TaskFamily]] = {
    "words": WordFamily,
    "text": TextFamily,
    "choices": ChoiceFamily,
    "passage": PassageFamily,
}


def family_of(spec: TaskSpec) -> TaskFamily:
    """What the family of a task does with it."""
    return FAMILY_OF_UNIT[spec.kind.unit](spec=spec)
