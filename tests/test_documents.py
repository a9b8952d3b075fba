"""The documents at the root speak of files that exist."""

import ast
import re
from pathlib import Path

import pytest

from mpt.data.manifest.reading import load_manifest
from mpt.experiments.settings import load_pretrain_settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[A-Z]+\.md|Makefile)`")


def missing(text):
    return [name for name in FILE.findall(text) if not (ROOT / name).exists() and not name.startswith(".venv/")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document):
    assert missing((ROOT / document).read_text()) == []


def test_a_file_that_is_gone_would_be_found():
    assert missing("see `mpt/nowhere.py`, `mpt/base/errors.py` and `GONE.md`") == ["mpt/nowhere.py", "GONE.md"]


def test_what_the_readme_has_a_user_write_is_understood(tmp_path):
    readme = (ROOT / "README.md").read_text()
    (manifest,) = re.findall(r"```yaml\n(.*?)```", readme, flags=re.DOTALL)
    ((text, name),) = re.findall(r"^echo '(.*)' > (\S+)$", readme, flags=re.MULTILINE)
    (tmp_path / "data").mkdir()
    (tmp_path / "my_ner.yaml").write_text(manifest.replace("/data/ner", "data"))
    (tmp_path / name).write_text(text)
    settings = load_pretrain_settings(Path(name))
    assert list(load_manifest(settings.manifest).tasks) == ["news", "tickets"]


def test_messages_about_launches_are_those_of_the_code():
    (table,) = re.findall(r"\| told \|.*?\n\n", (ROOT / "docs" / "distributed.md").read_text(), flags=re.DOTALL)
    told = re.findall(r"`([^`]+)`", " ".join(row.split("|")[1] for row in table.splitlines()[2:-1]))
    modules = ("training/launch", "experiments/execution", "training/ranks", "training/engines")
    nodes = [node for module in modules for node in ast.walk(ast.parse((ROOT / f"mpt/{module}.py").read_text()))]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert len(told) == 13
    assert [phrase for phrase in told if not any(phrase in text for text in texts)] == []


def test_every_make_target_in_the_documents_exists():
    named = set(re.findall(r"`make ([a-z-]+)`", "".join((ROOT / document).read_text() for document in DOCUMENTS)))
    assert named
    assert named <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def test_every_make_target_is_declared_phony_and_explained():
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):.*## \w", makefile, flags=re.MULTILINE))


def test_ci_runs_what_contributors_run():
    runner = ROOT / ".ci" / "run"
    assert runner.stat().st_mode & 0o111
    assert runner.read_text().rstrip().endswith("\nmake test")
