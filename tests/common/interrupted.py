"""Pretraining runs that end before they are done, and what of a run does not depend on it."""

import json

import pytest
from common.runs import files_of, run_pretrain

from mpt.training import loop


class Interrupted(BaseException):
    """Stands for the end of the process."""


def without_times(folder):
    """A run's files, less what is measured rather than computed."""
    found = files_of(folder)
    records = [json.loads(line) for line in found.pop("metrics.jsonl").splitlines()]
    found["metrics.jsonl"] = [{k: v for k, v in it.items() if not k.startswith("perf/")} for it in records]
    results = json.loads(found.pop("results.json"))
    assert set(results.pop("cost")) >= {"word_pieces", "seconds", "pieces_per_second", "peak_memory_mib"}
    found["results.json"] = results
    for name in [name for name in found if name.endswith("progress.json")]:
        found[name] = {**json.loads(found[name]), "seconds": 0}
    return {name: content for name, content in found.items() if not name.endswith("CHECKPOINT.json")}


def interrupted(world, folder, monkeypatch, *, resume, when, **changes):
    """Train until something happens for the first time in this call, then end."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, *when)
        with pytest.raises(Interrupted):
            run_pretrain(world, folder, resume=resume, **changes)


def after_first(real):
    """Let the first call pass and end the process after it."""

    def call(*args, **kwargs):
        real(*args, **kwargs)
        raise Interrupted

    return call


def before_second(real):
    """Let one call pass and end the process in place of the second."""
    calls = []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted
        return real(*args, **kwargs)

    return call
