"""SQuAD documents for tests."""

import json


def document(*articles, **more):
    """A document of articles, each a list of (context, questions)."""
    paragraphs = [[{"context": context, "qas": list(entries)} for context, entries in article] for article in articles]
    data = [{"title": f"t{number}", "paragraphs": found} for number, found in enumerate(paragraphs)]
    return {"version": "1.1", "data": data, **more}


def asked(name, question, *answers, **more):
    """An item of qas; answers are (text, offset)."""
    return {
        "id": name,
        "question": question,
        "answers": [{"text": text, "answer_start": start} for text, start in answers],
        **more,
    }


def write(path, made, **how):
    """Write a document as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, **({"indent": 1} | how)))
    return path
