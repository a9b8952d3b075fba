"""The process of one mixture, small, and the program around it."""

import json
import sys

import pytest

import plan_scale
from mpt.base.errors import ConfigError
from plan_point import PlanJob, measure_plan

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_a_streamed_mixture_is_measured(monkeypatch):
    monkeypatch.setattr("plan_point.SHARD", 100)
    cost = measure_plan(PlanJob(sizes="streamed", tasks=20, windows=3000, steps=30, far=1000))
    assert cost.largest > 1000 and cost.resume_seconds > 0


def test_a_mixture_is_measured():
    cost = measure_plan(PlanJob(sizes="power_law", tasks=20, windows=3000, steps=30, far=1000))
    assert abs(cost.windows - 3000) <= 20
    assert cost.largest == pytest.approx(3000 / sum(1 / k for k in range(1, 21)), abs=1)
    for median, percentile, highest in (cost.early_milliseconds, cost.far_milliseconds):
        assert 0 < median <= percentile <= highest
    assert cost.resume_seconds > 0 and cost.build_seconds > 0


def test_the_program_ends_with_json(capsys):
    plan_scale.run(tasks=5, windows=100, sizes="equal", steps=5, far=50, as_json=True)
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["equal"]["windows"] == 100 and answer["equal"]["largest"] == 20


def test_an_unknown_spread_is_refused():
    with pytest.raises(ConfigError, match="--sizes"):
        plan_scale.run(sizes="equals")
