import hashlib
import json
import os
from pathlib import Path

import pytest

from mpt.base.errors import ManifestError
from mpt.data.manifest.format_specs import SPECS, task_spec
from mpt.data.manifest.reading import load_manifest
from mpt.data.manifest.source_spec import Columns
from mpt.data.manifest.task_spec import ORDER

REPO = Path(__file__).parents[3]
HEAD = "version: 1\nname: demo\n"
SRL = {"family": "srl", "format": "props", "scheme": "", "columns": "{word: 0, predicate: 1, arguments: 2}"}
TASK = "{family: ner, files: {train: a.tsv, dev: b.tsv}, columns: {word: 0, tag: 1}, scheme: iob2}"


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(text: str):
        Path("m.yaml").write_text(text)
        return load_manifest(Path("m.yaml"))

    return run


def problems(load, text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load(text)
    return caught.value.problems


def task(**changes: str) -> str:
    """A manifest of one task `t`, some of its fields changed or, with "", left out."""
    fields = {
        "family": "ner",
        "files": "{train: a.tsv, dev: b.tsv}",
        "columns": "{word: 0, tag: 1}",
        "scheme": "iob2",
        **changes,
    }
    return HEAD + "tasks:\n  t:\n" + "".join(f"    {key}: {value}\n" for key, value in fields.items() if value)


def test_a_minimal_manifest_fills_in_the_defaults(load, tmp_path):
    manifest = load(task())
    spec = manifest.tasks["t"]
    assert (manifest.name, manifest.root, manifest.disabled) == ("demo", tmp_path.resolve(), ())
    assert (spec.metric, spec.tag_scheme, spec.labels, spec.format) == ("span_f1", "iob2", "auto", "conll")
    assert (spec.on_unseen_label, spec.repair, spec.long_policy, spec.no_piece) == (
        "error",
        "error",
        "window",
        "unknown",
    )
    assert (manifest.mixture.strategy, manifest.mixture.temperature) == ("temperature", 2.0)
    assert manifest.mixture.max_epochs_per_task == 80


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"family": "nre"},
            't.family: "nre" is not one of ner, slots, chunk, pos, tag, srl, classification,',
        ),
        ({"family": ""}, "t.family: is required. Add it."),
        ({"scheme": "", "schem": "iob2"}, 't.schem: unknown key. Did you mean "scheme"?'),
        ({"delimeter": "tab"}, 't.delimeter: unknown key. Did you mean "delimiter"?'),
        ({"delimiter": r"'\t'"}, r't.delimiter: "\t" is not tab, space, whitespace or one character (in single quotes'),
        ({"delimiter": "' '"}, 't.delimiter: " " is not tab, space, whitespace or one character.'),
        ({"encoding": "utf9"}, 't.encoding: "utf9" is not an encoding that Python knows.'),
        ({"encoding": "rot13"}, 't.encoding: "rot13" is not a text encoding.'),
        (
            {"format": "xls"},
            't.format: "xls" is not one of conll, conllu, props, jsonl, jsonl_spans, parquet, snips, rasa, text, hub,',
        ),
        (
            {"format": "csv", "columns": ""},
            "t.format: family ner is read from conll, conllu, jsonl, parquet, hub, jsonl_spans",
        ),
        ({"columns": "{word: 0}"}, "t.columns.tag: is required: the column of the tag."),
        (
            {"columns": "{word: 0, tag: 1, trailing: 1}"},
            "t.columns.trailing: has no meaning in format conll. Remove it.",
        ),
        ({"predicate": "suffix"}, "t.predicate: has no meaning in family ner. Remove it."),
        ({"format": "props"}, "t.format: family ner is read from conll"),
        (
            {**SRL, "columns": "{word: 0}"},
            "t.columns: is required, for example columns: {word: 1, predicate: 4, argume",
        ),
        (
            {**SRL, "columns": "{word: 5, predicate: 1, arguments: 2}"},
            "t.columns.word: must stand before the arguments",
        ),
        (
            {**SRL, "columns": "{word: 0, predicate: 2, arguments: 2}"},
            "t.columns.predicate: must stand before the argum",
        ),
        (
            {**SRL, "columns": "{word: 0, tag: 1, predicate: 1, arguments: 2}"},
            "t.columns.tag: has no meaning in format",
        ),
        ({**SRL, "scheme": "iob2"}, "t.scheme: format props holds spans, not tags. Remove scheme."),
        ({**SRL, "label_map": "{V: REL}"}, "t.label_map: V marks the predicate, which is no argument."),
        ({**SRL, "predicate": "marker"}, 't.predicate: "marker" is not one of suffix, segment'),
        ({"scheme": ""}, "t.scheme: is required: iob1, iob2, iobes, bilou or io. mpt never guesses it."),
        ({"scheme": "raw"}, "t.scheme: family ner is scored by span F1, which needs"),
        ({"family": "pos"}, "t.scheme: family pos has a tag for every word: scheme raw, or leave it out."),
        ({"format": "snips", "columns": ""}, "t.scheme: format snips holds spans, not tags. Remove scheme."),
        (
            {"format": "snips", "columns": "", "scheme": "", "family": "tag"},
            "t.format: family tag is read from conll, conllu, jsonl, parquet, hub, not from snips.",
        ),
        ({"columns": ""}, "t.columns: is required, for example columns: {word: 0, tag: -1}"),
        ({"columns": "{tag: 1}"}, "t.columns: is required, for example"),
        ({"columns": "{word: 0, tag: 0}"}, "t.columns.tag: is the column of the word too."),
        ({"columns": "{word: 0, tag: upos}"}, 't.columns.tag: "upos" is not a column number.'),
        ({"format": "conllu", "columns": ""}, "t.columns: is required, for example columns: {tag: upos}."),
        (
            {"format": "conllu", "columns": "{tag: xopos}"},
            't.columns.tag: "xopos" is not a column number nor one of id',
        ),
        ({"format": "conllu", "columns": "{word: 1, tag: 3}"}, "t.columns.word: in CoNLL-U the word is always FORM."),
        ({"format": "jsonl"}, "t.columns: has no meaning in format jsonl. Remove it."),
        ({"fields": "{tokens: w}"}, "t.fields: has no meaning in format conll. Remove it."),
        ({"files": "{train: a.tsv}"}, "t.files.dev: no dev split: give one, or dev_fraction (for example 0.1)."),
        ({"dev_fraction": "0.1"}, "t.dev_fraction: a dev split and dev_fraction exclude each other."),
        ({"dev_fraction": "0.9"}, "t.dev_fraction: must be at most 0.5, got 0.9."),
        ({"files": "{train: a.tsv}", "dev_fraction": "0.1", "dev_by": "document"}, "t.dev_by: document needs"),
        ({"files": "{dev: b.tsv}"}, "t.files.train: is required. Add it."),
        ({"files": ""}, "t.files: give either files or hub."),
        ({"files": "{train: ../a.tsv, dev: b}"}, 't.files.train: "../a.tsv" leaves root.'),
        ({"files": "{train: x/../../a.tsv, dev: b}"}, 't.files.train: "x/../../a.tsv" leaves root.'),
        ({"files": "{train: /etc/passwd, dev: b}"}, 't.files.train: "/etc/passwd" is not a relative path'),
        ({"files": "{train: 'C:\\a', dev: b}"}, 't.files.train: "C:\\a" is not a relative path'),
        ({"files": "{train: '${HOME}/a', dev: b}"}, 't.files.train: "${HOME}/a" holds a "$": variables are expanded'),
        ({"files": "{train: [a, 3], dev: b}"}, 't.files.train[1]: expected text, got 3. Quote it: "3".'),
        ({"labels": "[PER, true]"}, 't.labels[1]: expected text, got the boolean true. Quote it: "true".'),
        ({"labels": "[PER, ORG, PER]"}, "t.labels: twice in the list: PER."),
        ({"labels": "[O, B-PER]"}, "t.labels: list entity types without O and without prefixes"),
        ({"labels": "[]"}, "t.labels: is empty. List the labels, or write auto."),
        ({"labels": "atuo"}, 't.labels: expected a list or "auto", got "atuo".'),
        ({"labels": "[PER, '']"}, "t.labels: a label cannot be empty."),
        ({"rate": "2"}, "t.rate: has no meaning with strategy temperature; use explicit."),
        ({"rate": "-1"}, "t.rate: must be above 0, got -1."),
        ({"loss_weight": "0"}, "t.loss_weight: must be above 0, got 0."),
        ({"max_examples": "0"}, "t.max_examples: must be above 0, got 0."),
        ({"enabled": '"yes "'}, 't.enabled: expected true or false, got "yes ". Write true or false.'),
        ({"enabled": "false"}, "tasks: every task has enabled: false; a mixture needs at least one."),
        ({"sha256": "{a.tsv: 123}"}, 't.sha256.a.tsv: expected text, got 123. Quote it: "123".'),
        ({"sha256": "{a.tsv: abc}"}, 't.sha256.a.tsv: "abc" is not a SHA-256 (64 hex digits in lower case).'),
        ({"sha256": f"{{q.tsv: {'a' * 64}}}"}, "t.sha256.q.tsv: no split of this task names that file."),
        ({"hub": f"{{path: o/n, revision: {'a' * 40}}}"}, "t.files: files and hub exclude each other."),
    ],
)
def test_a_wrong_field_is_named(load, changes, problem):
    found = problems(load, task(**changes))
    assert any(problem in it for it in found), found
    assert all(it.startswith("m.yaml:") for it in found)


@pytest.mark.parametrize(
    ("hub", "problem"),
    [
        ("{path: o/n, revision: main}", 't.hub.revision: "main" is not a commit (40 hex digits).'),
        ("{path: o/n}", "t.hub.revision: is required. Add it."),
        (f"{{path: n, dev: v, revision: {'0' * 39}a}}", 't.hub.path: "n" is not owner/name.'),
    ],
)
def test_a_hub_source_must_be_pinned(load, hub, problem):
    found = problems(load, task(files="", columns="", format="hub", hub=hub))
    assert any(problem in it for it in found), found


def test_raw_families_have_no_o(load):
    found = problems(load, task(family="pos", scheme="", label_map="{A: null}", on_unseen_label="map_to_o"))
    assert [it.split(": ", 1)[1] for it in found] == [
        "tasks.t.label_map: family pos has no O, so no label can be mapped to null.",
        "tasks.t.on_unseen_label: family pos has no O. Use error or drop_sentence.",
    ]


def test_all_problems_of_all_tasks_come_at_once(load):
    text = f"version: 1\nname: NER mix\ntasks:\n  Bad.Name: {TASK}\n  b: {{family: nre}}\n"
    text += "mixture: {strategy: even}\nx: 1\n"
    found = problems(load, text)
    assert [it.split(": ")[0] for it in found] == [f"m.yaml:{place}" for place in ("2:7", "4:3", "5:15", "6:21", "7:1")]
    assert 'name: "NER mix" may only hold' in found[0]
    assert 'task name "Bad.Name" may only hold a-z 0-9 _ -; it names files and log keys.' in found[1]


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        (
            "2",
            "m.yaml:1:10: version: version 2 is not supported by this mpt (knows: 1). Upgrade mpt or write version: 1.",
        ),
        ("one", 'm.yaml:1:10: version: "one" is not 1.'),
    ],
)
def test_another_version_is_refused(load, version, problem):
    assert problems(load, f"version: {version}\nname: demo\ntasks: {{t: {TASK}}}") == [problem]


@pytest.mark.parametrize("text", ["tasks: {}", "tasks:", "{}"])
def test_tasks_are_required(load, text):
    assert any("tasks" in it for it in problems(load, f"{HEAD}{text}\n" if text != "{}" else HEAD))


# Defaults


def test_defaults_reach_every_task_that_they_mean_something_for(load):
    manifest = load(
        HEAD
        + "defaults: {family: ner, scheme: iob1, columns: {word: 0, tag: 3}, docstart: X, dev_fraction: 0.2,\n"
        + "           repair: begin}\n"
        + "tasks:\n"
        + "  plain: {files: {train: a}}\n"
        + "  own: {files: {train: a, dev: b}, columns: {word: 0, tag: 1}, scheme: iob2}\n"
        + "  slots: {files: {train: a}, format: snips}\n"
        + "  pos: {files: {train: a}, format: conllu, columns: {tag: upos}, family: pos}\n"
    )
    plain, own, slots, pos = manifest.tasks.values()
    assert (plain.scheme, plain.columns, plain.dev_fraction) == ("iob1", Columns(word=0, tag=3), 0.2)
    assert (own.scheme, own.columns, own.dev_fraction) == ("iob2", Columns(word=0, tag=1), None)
    assert not {"scheme", "columns", "docstart"} & set(type(slots).model_fields) and slots.tag_scheme == "iob2"
    assert (pos.scheme, pos.columns, pos.tag_scheme) == (None, Columns(tag="upos"), "raw")
    assert "docstart" not in type(pos).model_fields
    assert {it.repair for it in manifest.tasks.values()} == {"begin"}


def test_a_wrong_default_is_reported_once_where_it_stands(load):
    text = HEAD + f"defaults: {{scheme: iob3, delimeter: tab, sha256: {{}}}}\ntasks:\n  a: {TASK}\n"
    rest = "{family: ner, files: {train: a, dev: b}, columns: {word: 0, tag: 1}}"
    found = problems(load, text + f"  b: {rest}\n  c: {rest}\n")
    assert found == [
        'm.yaml:3:20: defaults.scheme: "iob3" is not one of iob1, iob2, iobes, bilou, io, raw. Did you mean "iob2"?',
        'm.yaml:3:26: defaults.delimeter: "delimeter" is not a task field. Did you mean "delimiter"?',
        "m.yaml:3:42: defaults.sha256: belongs to one task and has no default. Move it there.",
    ]


# Mixture


def test_explicit_rates_are_needed_with_strategy_explicit_only(load):
    two = f"tasks:\n  a: {TASK[:-1]}, rate: 3}}\n  b: {TASK}\n  c: {TASK[:-1]}, enabled: false}}\n"
    assert problems(load, f"{HEAD}{two}mixture: {{strategy: explicit}}") == [
        "m.yaml:5:6: tasks.b.rate: strategy explicit needs a rate for every task. Add it."
    ]
    (found,) = problems(load, f"{HEAD}{two}mixture: {{strategy: uniform, temperature: 3}}")[:1]
    assert "tasks.a.rate: has no meaning with strategy uniform" in found


def test_a_temperature_below_one_or_without_use_is_refused(load):
    assert problems(load, task() + "mixture: {temperature: 0.5}") == [
        "m.yaml:9:24: mixture.temperature: must be at least 1, got 0.5."
    ]
    assert problems(load, task() + "mixture: {strategy: uniform, temperature: 2}") == [
        "m.yaml:9:43: mixture.temperature: has no meaning with strategy uniform. Remove it."
    ]


# Root, digest, look-ups


def test_root_expands_variables_and_is_relative_to_the_manifest(load, tmp_path, monkeypatch):
    (tmp_path / "data" / "deep").mkdir(parents=True)
    monkeypatch.setenv("SOME_DATA", "data")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    for root in ("data/deep", "${SOME_DATA}/deep", "${UNSET:-data}/deep", "${EMPTY:-data}/deep"):
        assert load(task() + f"root: {root}").root == (tmp_path / "data" / "deep").resolve()
    monkeypatch.setenv("SOME_DATA", str(tmp_path / "data"))
    assert load(task() + "root: ${SOME_DATA}").root == (tmp_path / "data").resolve()


def test_a_wrong_root_is_reported_with_the_other_problems(load, monkeypatch):
    monkeypatch.delenv("UNSET", raising=False)
    found = problems(load, task(family="nre") + "root: nowhere")
    assert 'm.yaml:9:7: root: root "nowhere" is no folder (resolved to ' in found[1]
    assert len(found) == 2
    (found,) = problems(load, task() + "root: ${UNSET}/x")
    assert found == "m.yaml:9:7: root: the environment variable UNSET is not set. Set it to the data folder."


def test_the_digest_depends_on_what_changes_numbers_and_on_nothing_else(load, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    digest = load(task()).digest
    spelt_out = HEAD + "root: elsewhere\ndefaults: {family: ner, scheme: iob2}\ntasks:\n  t:\n    license: MIT\n"
    spelt_out += "    files: {dev: [b.tsv], train: a.tsv}\n    columns: {tag: 1, word: 0}\n    loss_weight: 1\n"
    assert load(spelt_out).digest == digest
    assert load(task() + f"  off: {TASK[:-1]}, enabled: false}}\n").digest == digest
    changed = [task(max_examples="5"), task(scheme="io"), task() + "mixture: {temperature: 3}"]
    assert len({digest, *(load(text).digest for text in changed)}) == 4
    assert digest == "8d15ce13f53a406828770d0e077bb074ef16227440a823966557dfd57f386484"  # the same on every machine


def test_an_unknown_or_disabled_task_is_explained(load):
    manifest = load(f"{HEAD}tasks:\n  wnut17: {TASK}\n  bc5cdr: {TASK[:-1]}, enabled: false}}\n")
    assert manifest.disabled == ("bc5cdr",)
    with pytest.raises(ManifestError, match=r'm.yaml: no task "wnut". It has: wnut17. Did you mean "wnut17"\?'):
        manifest.spec("wnut")
    with pytest.raises(ManifestError, match=r"m.yaml:5:11: tasks.bc5cdr: the task is disabled"):
        manifest.spec("bc5cdr")


def test_a_field_can_be_located(load):
    manifest = load(HEAD + f"defaults: {{repair: begin}}\ntasks:\n  t: {TASK}\n")
    assert manifest.locate("tasks", "t", "scheme") == "m.yaml:5:91: tasks.t.scheme"
    assert manifest.locate("tasks", "t", "repair") == "m.yaml:3:20: defaults.repair"
    assert manifest.locate("tasks", "t", "labels") == "m.yaml:5:6: tasks.t.labels"


@pytest.mark.parametrize("path", sorted((REPO / "data_manifests").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_manifest_is_well_formed_and_documented(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_DATA", str(tmp_path))
    manifest = load_manifest(path)
    assert manifest.name == path.stem
    for spec in manifest.tasks.values():
        assert spec.license
        assert spec.citation
        if path.stem.startswith("open_"):
            assert spec.files is not None
            assert set(spec.sha256) == set(spec.files.entries())
    assert os.environ["MPT_DATA"] == str(manifest.root)


TEXTS = {"family": "classification", "columns": "", "scheme": ""}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": "conll"}, "t.format: family classification is read from csv, jsonl, text, not from conll."),
        ({"format": "csv", "columns": "{word: 0, tag: 1}"}, "t.columns: has no meaning in format csv. Remove it."),
        ({"format": "jsonl", "quoted": "true"}, "t.quoted: has no meaning in format jsonl. Remove it."),
        ({"format": "csv", "repair": "begin"}, "t.repair: has no meaning in family classification. Remove it."),
        ({"format": "csv", "questions": "{cause: Why?}"}, "t.questions: has no meaning in family classification."),
        ({"format": "csv", "delimiter": "space"}, "t.delimiter: a CSV file is separated by tab or one character"),
        (
            {"format": "csv", "score": "span_f1"},
            "t.score: family classification is scored by accuracy or macro_f1 or f1",
        ),
        ({"format": "csv", "each": "a.b"}, "t.each: has no meaning in format csv. Remove it."),
        ({"format": "text", "each": "a.b"}, "t.each: has no meaning in format text. Remove it."),
        ({"format": "jsonl", "each": "a..b"}, 't.each: "a..b" has nothing before, between or after its dots.'),
        ({"format": "jsonl", "each": "a.b"}, 't.fields.label: "label" is in no item of each. Write a.b.label'),
        (
            {"format": "jsonl", "each": "a.b", "fields": "{label: a.b.}"},
            't.fields.label: "a.b." is in no item of each. Write a.b.label',
        ),
        ({"format": "csv", "score": "f1"}, "t.positive: is required with score: f1"),
        ({"format": "csv", "positive": "x"}, "t.positive: is the label that score: f1 counts. Set that too"),
        ({"format": "csv", "score": "macro_f1", "positive": "x"}, "t.positive: is the label that score: f1 counts."),
        (
            {"format": "csv", "score": "f1", "positive": "spma", "labels": "[spam, ham]"},
            't.positive: "spma" is not one of the 2 labels: spam, ham. Did you mean "spam"?',
        ),
        ({"family": "choice", "format": "jsonl", "positive": "x"}, "t.positive: has no meaning in family choice."),
        ({"format": "csv", "test_fraction": "0.1", "files": "{train: a, dev: b, test: c}"}, "t.test_fraction: a test"),
        ({"format": "text", "label_of": "{c.tsv: x}"}, "t.label_of.c.tsv: no split of this task names that file."),
        ({"family": "choice", "format": "jsonl", "labels": "[a]"}, "t.labels: has no meaning in family choice."),
        (
            {"family": "choice", "format": "jsonl", "questions": "{cause: Why?}"},
            "t.questions: needs fields.question, the field whose value they stand for.",
        ),
    ],
)
def test_a_wrong_field_of_whole_texts_is_named(load, changes, problem):
    found = problems(load, task(**(TEXTS | changes)))
    assert any(problem in one for one in found), found


WORDS = "{positive: great, negative: terrible}"
CLOZE = TEXTS | {"format": "csv", "verbalizer": WORDS}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"template": '"{text} is {mask}, {mask}"'}, "must hold each of {text}, {mask} once, got {mask} 2x."),
        ({"template": '"It was {mask}."'}, "must hold each of {text}, {mask} once, got {text} 0x."),
        ({"template": '"{txt} {mask}"'}, 'holds {txt}, which is none of {text}, {mask}. Did you mean "{text}"?'),
        ({"template": '"{text} {pair} {mask}"'}, "holds {pair}, but fields.pair names no second text."),
        (
            {"template": '"{text} {mask}"', "fields": "{pair: b}"},
            "must hold each of {text}, {pair}, {mask} once, got {pair} 0x.",
        ),
        ({"template": '"{text} {mask}"', "verbalizer": ""}, "t.template: needs verbalizer, the word that stands for"),
        ({"verbalizer": "{}"}, "t.verbalizer: is empty. Remove it."),
        ({"verbalizer": "{a: x, b: x}"}, "t.verbalizer: x stands for several labels."),
        ({"verbalizer": '{a: " x", b: ""}'}, "t.verbalizer: the word of a, b is empty or has spaces around it."),
        (
            {"labels": "[positive, neutral]"},
            "t.verbalizer: needs one word for each of labels (without a word: neutral; not in labels: negative).",
        ),
        ({"verbalizer": "{a: 1}"}, "t.verbalizer.a: "),
        ({"family": "choice", "format": "jsonl"}, "t.verbalizer: has no meaning in family choice. Remove it."),
    ],
)
def test_a_wrong_verbalizer_or_template_is_named(load, changes, problem):
    found = problems(load, task(**(CLOZE | changes)))
    assert any(problem in one for one in found), found


def test_words_list_the_labels_and_a_template_is_there_by_itself(load):
    spec = load(task(**CLOZE)).tasks["t"]
    assert (spec.listed_labels, spec.cloze) == (("positive", "negative"), "{text} {mask}.")
    paired = load(task(**CLOZE, fields="{pair: b}", labels="[negative, positive]")).tasks["t"]
    assert (paired.listed_labels, paired.cloze) == (("negative", "positive"), "{text} {pair} {mask}.")
    plain = load(task(**(CLOZE | {"verbalizer": ""}))).tasks["t"]
    assert (plain.listed_labels, plain.cloze) == (None, None)
    streamed = load(task(**CLOZE, streamed="true")).tasks["t"]
    assert streamed.labels == "auto"


def test_defaults_reach_only_the_families_that_they_have_a_meaning_for(load):
    text = (
        HEAD + "defaults: {scheme: iob2, columns: {word: 0, tag: 1}, repair: begin, on_unseen_label: drop_sentence}\n"
    )
    text += "tasks:\n  words: {family: ner, files: {train: a, dev: b}}\n"
    text += "  texts: {family: classification, format: csv, files: {train: c, dev: d}}\n"
    text += "  choices: {family: choice, format: jsonl, files: {train: e, dev: f}}\n"
    tasks = load(text).tasks
    assert not {"scheme", "columns", "repair"} & set(type(tasks["texts"]).model_fields)
    assert (tasks["choices"].scheme, tasks["choices"].repair) == (None, "error")
    assert (tasks["texts"].on_unseen_label, tasks["choices"].on_unseen_label) == ("drop_sentence", "error")
    assert tasks["texts"].long_policy == tasks["choices"].long_policy == "cut"


# What checkpoints hold

SAID = {
    "open_classification": "fe77e757a7a6",
    "open_ner": "89cfed7db624",
    "open_pos": "486222c50055",
    "open_qa": "f78481af7104",
    "open_slots": "f0a08f9498f2",
    "open_small": "f4ae1656be39",
    "open_srl": "fc2d8acf1651",
    "open_targets": "0d393efdbce5",
    "open_verbalizer": "4a783382233b",
    "paper_conll03": "43b4c2ae6fe5",
    "paper_conll04": "913670dbe94d",
    "paper_glue": "8f853eba2b9e",
    "paper_ner": "8e6fe0e2bc7c",
    "paper_ontonotes": "41872f4272f0",
    "paper_qa": "62087380f1d1",
    "paper_srl": "e2db4a91c520",
    "paper_superglue": "48bbc374943f",
}
"""Digests of what a checkpoint holds of the tasks of the shipped manifests, which older checkpoints hold too."""


@pytest.mark.parametrize("name", SAID)
def test_a_checkpoint_says_of_a_task_what_it_always_did_and_reads_it_back(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_DATA", str(tmp_path))
    tasks = load_manifest(REPO / "data_manifests" / f"{name}.yaml").tasks
    said = {name: spec.model_dump(mode="json", exclude_defaults=True) for name, spec in tasks.items()}
    assert hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12] == SAID[name]
    assert {name: task_spec(declared) for name, declared in said.items()} == tasks


def test_every_field_has_a_place_in_the_order():
    assert set(ORDER) == {field for spec in SPECS.values() for field in spec.model_fields}
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize(
    ("form", "field"),
    [("conll", "fields"), ("conllu", "delimiter"), ("jsonl", "columns"), ("csv", "scheme"), ("squad", "label_map")],
)
def test_a_class_has_no_field_that_says_nothing_in_its_format(form, field):
    assert field not in SPECS[form].model_fields


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_task_may_be_called_like_a_format(load, name):
    declared = task(files="", columns="", format="hub", hub="{path: o/n}", labels="atuo").replace("  t:", f"  {name}:")
    assert [it.split(": ", 1)[1] for it in problems(load, declared)] == [
        f"tasks.{name}.hub.revision: is required. Add it.",
        f'tasks.{name}.labels: expected a list or "auto", got "atuo".',
    ]
    unknown = task(colums="1").replace("  t:", f"  {name}:")
    (found,) = problems(load, unknown)
    assert f"tasks.{name}.colums: unknown key. " in found


def test_what_says_nothing_is_told_beside_every_other_problem(load):
    found = problems(load, task(quoted="true", stride="3", colour="red", dev_fraction="0.9"))
    assert [it.split(": ", 1)[1].split(". ")[0] for it in found] == [
        "tasks.t.quoted: has no meaning in format conll",
        "tasks.t.stride: has no meaning in family ner",
        "tasks.t.colour: unknown key",
        "tasks.t.dev_fraction: must be at most 0.5, got 0.9.",
    ]
