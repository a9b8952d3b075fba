"""ReCoRD as SuperGLUE has it: a passage a line, and questions with a gap, `@placeholder`, that a name of it fills.

Source: Zhang et al. 2018, "ReCoRD: Bridging the Gap between Human and Machine Commonsense Reading Comprehension".
"""

import json
from collections.abc import Iterator, Mapping

from mpt.base.errors import DataError
from mpt.data.formats.jsonlines import read_objects
from mpt.data.formats.qa_entry import Entry, Names, field_of, list_of, text_of
from mpt.data.formats.source import Problems, quoted

NAMES = Names(id="idx", question="query", start="start", end="end", numbered=True)


def record_entries(text: str, problems: Problems) -> Iterator[Entry]:
    """Yield all questions of lines `{"passage": {"text": ...}, "qas": [...]}`; a line is a document."""
    for line, record in read_objects(text, problems):
        try:
            passage = text_of(field_of(record, "passage"), "text", "passage")
            asked = list_of(record, "qas")
        except DataError as error:
            for problem in error.problems:
                problems.add(line, problem)
            continue
        for number, entry in enumerate(asked):
            place = f"qas[{number}]"
            if isinstance(entry, dict):
                yield Entry(record=entry, names=NAMES, context=passage, article=line, place=place, line=line)
            else:
                problems.add(line, f"{place}: expected an object, got {quoted(json.dumps(entry))}")


def record_predictions(answers: Mapping[str, str]) -> str:
    """Lines `{"idx": ..., "label": ...}`, as SuperGLUE takes them, of answers by id."""
    lines = ({"idx": int(name), "label": answer} for name, answer in answers.items())
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
