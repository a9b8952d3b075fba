"""Which fields of a task say anything, given its family and format."""

from mpt.data.families.family import Family

# Formats that a reading field has a meaning for; elsewhere a task may not set it, and `defaults` do not reach it.
FORMATS_OF_FIELD: dict[str, tuple[str, ...]] = {
    "columns": ("conll", "conllu", "props"),
    "delimiter": ("conll", "props", "csv"),
    "comment_prefix": ("conll", "props"),
    "docstart": ("conll", "props"),
    "fields": ("jsonl", "jsonl_spans", "parquet", "hub", "csv"),
    "quoted": ("csv",),
    "label_of": ("text",),
    "no_answer": ("squad",),
    "no_answer_above": ("squad",),
    "each": ("jsonl",),
}

# Fields that have a meaning where words have tags, examples labels, sentences choices or a predicate, texts a label.
WORD_FIELDS = ("columns", "scheme", "repair", "no_piece")
LABEL_FIELDS = ("labels", "label_map", "on_unseen_label")
CHOICE_FIELDS = ("questions",)
WHOLE_FIELDS = ("each",)
PREDICATE_FIELDS = ("predicate",)
PASSAGE_FIELDS = ("stride", "max_question", "max_answer", "no_answer", "no_answer_above", "on_bad_answer")
TEXT_FIELDS = ("verbalizer", "template", "positive")


def has_meaning(field: str, family: Family, form: str) -> bool:
    """Tell whether a field of a task says anything in this family and format."""
    if form not in FORMATS_OF_FIELD.get(field, (form,)):
        return False
    if field in WORD_FIELDS:
        return family.unit == "words"
    if field in LABEL_FIELDS:
        return family.labelled
    if field in PREDICATE_FIELDS:
        return family.predicate
    if field in PASSAGE_FIELDS:
        return family.unit == "passage"
    if field in WHOLE_FIELDS:
        return family.unit in ("text", "choices")
    if field in TEXT_FIELDS:
        return family.unit == "text"
    return field not in CHOICE_FIELDS or family.unit == "choices"
