import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mpt.data.manifest.reading import Manifest, load_manifest
from mpt.data.validate import ManifestReport, render, run_validate, validate

REPO = Path(__file__).parents[2]
DATA = Path(os.environ.get("MPT_DATA") or REPO / "../shared/data").resolve()
SPEC = "family: ner, columns: {word: 0, tag: 1}, scheme: iob2"


def column(*sentences: str) -> str:
    """Sentences in column form; the first word of each is an entity of type X."""
    return "\n".join("".join(f"{w} {'B-X' if i == 0 else 'O'}\n" for i, w in enumerate(s.split())) for s in sentences)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Write files and a manifest; tasks are given as YAML text."""
    monkeypatch.chdir(tmp_path)

    def run(files: dict[str, str], tasks: dict[str, str], more: str = "") -> Manifest:
        for name, content in files.items():
            Path(name).write_text(content)
        lines = "".join(f"  {name}: {{{spec}}}\n" for name, spec in tasks.items())
        Path("m.yaml").write_text(f"version: 1\nname: demo\ntasks:\n{lines}{more}")
        return load_manifest(Path("m.yaml"))

    return run


@pytest.fixture
def two(make) -> Manifest:
    """Task `a` of 16 words in train and `b` of 4, with sentences that several splits share."""
    files = {
        "a.train": column("one two three four five", "One Two , three four FIVE", "six seven", "six seven"),
        "a.dev": column("one two three four five !", "short one"),
        "a.test": column("one two three four five .", "eight nine ten eleven twelve"),
        "b.train": column("eight nine ten eleven twelve"),
        "b.dev": column("short one", "one two three four five"),
    }
    return make(
        files,
        {
            "a": f"{SPEC}, files: {{train: a.train, dev: a.dev, test: a.test}}, license: MIT",
            "b": f"{SPEC}, files: {{train: b.train, dev: b.dev}}",
        },
    )


def shown(report: ManifestReport, width: int | None = None) -> str:
    console = Console(file=StringIO(), width=width or 200)
    console.print(render(report, width=width), soft_wrap=True)
    return console.file.getvalue()


def test_the_table_counts_and_computes(two):
    report = validate(two, passes=10)
    first, second = report.tasks
    assert (first.name, first.sentences, first.words) == (
        "a",
        {"train": 4, "dev": 2, "test": 2},
        {"train": 15, "dev": 8, "test": 11},
    )
    assert (first.labels, first.license, first.longest, first.longest_words) == (1, "MIT", "a.train:7", 6)
    assert (second.sentences, second.license) == ({"train": 1, "dev": 2}, None)
    assert report.total_words == 10 * (15 + 5)
    assert first.rate + second.rate == pytest.approx(1)
    assert first.rate == pytest.approx(15**0.5 / (15**0.5 + 5**0.5))
    assert second.epochs == pytest.approx(second.rate * 200 / 5)
    assert (first.limit, second.limit) == (None, None)


def test_overlaps_are_found_across_splits_and_tasks(two):
    found = [
        (it.task, it.split, it.other_task, it.other_split, it.count, it.of, it.first, it.other_first)
        for it in validate(two).overlaps
    ]
    assert found == [
        ("a", "dev", "a", "train", 1, 2, "a.dev:1", "a.train:1"),
        ("a", "test", "a", "train", 1, 2, "a.test:1", "a.train:1"),
        ("a", "test", "b", "train", 1, 2, "a.test:8", "b.train:1"),
        ("b", "dev", "a", "train", 1, 2, "b.dev:4", "a.train:1"),
        ("a", "test", "a", "dev", 1, 2, "a.test:1", "a.dev:1"),
        ("a", "train", "a", "train", 1, 4, "a.train:7", "a.train:1"),
    ]


def test_the_report_reads_like_this(two):
    assert shown(validate(two)) == (
        f"demo (m.yaml), digest {two.digest[:12]}\n"
        "task  train  dev  test  labels  words/sent.  share  epochs\n"
        "a         4    2     2       1          3.8  63.4%     8.5\n"
        "b         1    2     -       1          5.0  36.6%    14.6\n"
        "share: of the micro-batches. epochs: how often a run over 200 words (10 passes over all train splits) sees "
        "each training sentence.\n"
        "\n"
        "Notices\n"
        "  b: has no test split.\n"
        "\n"
        "Sentences in several places (compared without case and punctuation, from 5 words)\n"
        "  a: 1 of 2 dev sentences (50.0%) is in train, too (first: a.dev:1, a.train:1)\n"
        "  a: 1 of 2 test sentences (50.0%) is in train, too (first: a.test:1, a.train:1)\n"
        "  a: 1 of 2 test sentences (50.0%) is in b train, too (first: a.test:8, b.train:1)\n"
        "  b: 1 of 2 dev sentences (50.0%) is in a train, too (first: b.dev:4, a.train:1)\n"
        "  a: 1 of 2 test sentences (50.0%) is in dev, too (first: a.test:1, a.dev:1)\n"
        "  a: 1 of 4 train sentences (25.0%) repeats an earlier one (first: a.train:7, a.train:1)\n"
        "\n"
        "Licences\n"
        "  MIT: a\n"
        "  none declared: b\n"
    )


def test_a_terminal_gets_lines_that_fit(two):
    lines = shown(validate(two), width=60).splitlines()
    assert max(map(len, lines)) <= 60
    assert "    (first: a.train:7, a.train:1)" in lines


def test_the_repetition_limit_is_marked(two):
    text = shown(validate(two, passes=60))
    assert "b         1    2     -       1          5.0  33.3%   80.0*\n" in text
    assert "a         4    2     2       1          3.8  66.7%    53.3\n" in text
    assert "*: held at its repetition limit; the other tasks share what that frees.\n" in text


def test_notices_name_what_deserves_a_look(make):
    long = " ".join(f"w{i}" for i in range(401))
    files = {"train": column(long, "a b"), "dev": column("a b"), "pos": "a X\n"}
    split = "files: {train: train, dev: dev}"
    tasks = {
        "a": f"{SPEC}, {split}, shots: [1, 3]",
        "b": "family: pos, columns: {word: 0, tag: 1}, files: {train: pos, dev: pos2}",
        "c": f"{SPEC}, {split}, enabled: false",
    }
    report = validate(make({**files, "pos2": "a X\n"}, tasks))
    assert report.notices == [
        "c: disabled, not read.",
        "a: has no test split.",
        "a: shots 3 is more than train has (2); transfer refuses it.",
        "a: sentences of more than 400 words: 1, the longest has 401 (train:1). Overlapping windows cover them; "
        "nothing is lost.",
        "b: has no test split.",
        "families ner, pos are mixed; MPT-2 as published stays inside one family.",
    ]


def test_all_problems_go_to_stderr_with_status_2(make, capsys):
    files = {"a": "x B-X\ny\n", "b": "x I-X\n\nz I-X\ny B-Y\n", "dev": column("a b")}
    tasks = {name: f"{SPEC}, files: {{train: {name}, dev: {dev}}}" for name, dev in (("a", "dev"), ("b", "dve"))}
    make(files, tasks)
    output = StringIO()
    assert run_validate(Path("m.yaml"), 10, Console(file=output)) == 2
    captured = capsys.readouterr()
    assert (output.getvalue(), captured.out) == ("", "")
    assert "a:2: " in captured.err
    assert '"dve" not found in' in captured.err
    assert captured.err.endswith("m.yaml is not valid: correct the problems above.\n")
    assert run_validate(Path("none.yaml"), 10, Console(file=output)) == 2
    assert "none.yaml: manifest not found." in capsys.readouterr().err


def test_data_cannot_steer_the_terminal(make, capsys):
    make({"train": "a B-\x1b[31m\n", "dev": "a B-X\n"}, {"t": f"{SPEC}, files: {{train: train, dev: dev}}"})
    assert run_validate(Path("m.yaml"), 10, Console(file=StringIO())) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_json_holds_the_whole_report(two):
    output = StringIO()
    assert run_validate(Path("m.yaml"), 10, Console(file=output, width=20), as_json=True) == 0
    report = json.loads(output.getvalue())
    assert report["digest"] == two.digest
    assert [task["name"] for task in report["tasks"]] == ["a", "b"]
    assert len(report["overlaps"]) == 6


def test_a_run_that_the_limits_do_not_allow_is_explained(two, capsys):
    assert run_validate(Path("m.yaml"), 81, Console(file=StringIO())) == 2
    assert "a run of 1,620 words cannot be filled: the repetition limits allow 1,600" in capsys.readouterr().err


def test_validation_needs_no_deep_learning_library(two):
    code = "import sys; from pathlib import Path; from mpt.data.validate import run_validate"
    code += "; from rich.console import Console; status = run_validate(Path('m.yaml'), 10, Console())"
    code += "; assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules); sys.exit(status)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_overlaps_of_published_data_are_found(monkeypatch):
    if not DATA.is_dir():
        pytest.skip(f"no data in {DATA}; set MPT_DATA")
    monkeypatch.setenv("MPT_DATA", str(DATA))
    report = validate(load_manifest(REPO / "data_manifests" / "open_targets.yaml"))
    found = {(it.task, it.split, it.other_task, it.other_split): it.count for it in report.overlaps}
    assert found["bc2gm", "test", "bc2gm", "train"] == 12
    assert found["crossner_ai", "test", "crossner_ai", "dev"] == 4
    assert ("sec_filings", "dev", "sec_filings", "train") not in found  # equal sentences stay together
    assert any("the longest has 641" in notice for notice in report.notices)
