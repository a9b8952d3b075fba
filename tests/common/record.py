"""Lines of ReCoRD for tests."""

import json


def line(number, text, *entries):
    """A passage with its questions; entities are those that answer them."""
    spans = {(it["start"], it["end"]) for entry in entries for it in entry.get("answers", ())}
    entities = [{"start": start, "end": end} for start, end in sorted(spans)]
    return {
        "source": "Daily mail",
        "passage": {"text": text, "entities": entities},
        "idx": number,
        "qas": list(entries),
    }


def query(number, text, *answers):
    """An item of qas; answers are (text, offset), and their ends are included."""
    found = [{"start": start, "end": start + len(name) - 1, "text": name} for name, start in answers]
    return {"query": text, "answers": found, "idx": number}


def write(path, lines):
    """Write JSON lines."""
    path.write_text("".join(json.dumps(it) + "\n" for it in lines))
    return path
