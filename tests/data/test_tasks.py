import hashlib
import json
import os
from pathlib import Path

import pytest

from mpt.base.errors import DataError, ManifestError, MptError
from mpt.data.manifest.files import find_files
from mpt.data.manifest.reading import Manifest, load_manifest
from mpt.data.tasks import load_task, load_tasks

REPO = Path(__file__).parents[2]
DATA = Path(os.environ.get("MPT_DATA") or REPO / "../shared/data").resolve()
TRAIN = "Ada B-PER\nLi I-PER\nsat O\n\nin O\nRome B-LOC\n\nBo B-PER\n"
DEV = "Oslo B-LOC\n\nAda B-PER\n"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Write data files and a manifest of one task `t`; fields are given as YAML text."""
    monkeypatch.chdir(tmp_path)

    def run(contents: dict[str, str] | None = None, /, **fields: str) -> Manifest:
        for name, content in {"train": TRAIN, "dev": DEV, **(contents or {})}.items():
            path = Path("data") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        base = {
            "family": "ner",
            "files": "{train: train, dev: dev}",
            "columns": "{word: 0, tag: 1}",
            "scheme": "iob2",
        }
        fields = {**base, **fields}
        lines = "".join(f"    {key}: {value}\n" for key, value in fields.items() if value)
        Path("m.yaml").write_text(f"version: 1\nname: demo\nroot: data\ntasks:\n  t:\n{lines}")
        return load_manifest(Path("m.yaml"))

    return run


def problems(manifest: Manifest, **arguments) -> list[str]:
    with pytest.raises(MptError) as caught:
        load_task(manifest, "t", **arguments)
    return [it.replace(f"{manifest.root}/", "") for it in caught.value.problems]


def texts(sentences) -> list[str]:
    return [" ".join(it.words) for it in sentences]


# Reading


def test_a_task_has_its_splits_labels_and_digests(make):
    task, notices = load_task(make(), "t")
    assert (task.name, task.spec.family, task.spec.tag_scheme, task.spec.metric) == ("t", "ner", "iob2", "span_f1")
    assert task.labels == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert texts(task.splits["train"]) == ["Ada Li sat", "in Rome", "Bo"]
    assert texts(task.splits["dev"]) == ["Oslo", "Ada"]
    assert task.splits["train"][0].tags == ("B-PER", "I-PER", "O")
    assert task.digests == {
        "train": hashlib.sha256(TRAIN.encode()).hexdigest(),
        "dev": hashlib.sha256(DEV.encode()).hexdigest(),
    }
    assert notices == []


def test_the_files_own_scheme_becomes_bio2(make):
    task, _ = load_task(make({"train": "a I-X\nb I-X\n\nc I-X\nd B-X\n", "dev": "a I-X\n"}, scheme="iob1"), "t")
    assert [it.tags for it in task.splits["train"]] == [("B-X", "I-X"), ("B-X", "B-X")]


def test_lists_and_globs_are_read_in_order(make):
    files = {f"part-{n}": f"w{n} B-X\n" for n in (2, 1, 3)}
    listed, _ = load_task(make(files, files="{train: [part-3, part-1], dev: dev}", on_unseen_label="map_to_o"), "t")
    assert texts(listed.splits["train"]) == ["w3", "w1"]
    globbed, _ = load_task(make(files, files='{train: "part-*", dev: dev}', on_unseen_label="map_to_o"), "t")
    assert texts(globbed.splits["train"]) == ["w1", "w2", "w3"]


def test_only_the_splits_that_are_asked_for_are_read(make):
    manifest = make(files="{train: train, dev: dev, test: withheld}")
    assert set(load_task(manifest, "t")[0].splits) == {"train", "dev"}
    assert set(load_task(manifest, "t", splits=["dev"])[0].splits) == {"dev"}
    assert set(load_task(make(), "t", splits=["test", "dev"])[0].splits) == {"dev"}


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ("{train: trian, dev: dev}", 'm.yaml:7:20: tasks.t.files.train: "trian" not found in ROOT. Nearby: train.'),
        ("{train: sub, dev: dev}", 'm.yaml:7:20: tasks.t.files.train: "sub" is a folder in ROOT.'),
        ('{train: "*.tsv", dev: dev}', 'm.yaml:7:20: tasks.t.files.train: "*.tsv" not found in ROOT.'),
        ("{train: train, dev: train}", "m.yaml:7:32: tasks.t.files.dev: train is given twice, in train and dev."),
        ('{train: [train, "tr*n"], dev: dev}', "tasks.t.files.train: train is given twice, in train and train."),
    ],
)
def test_a_file_that_is_not_there_or_there_twice_is_named(make, files, problem):
    manifest = make({"sub/x": ""}, files=files)
    (found,) = problems(manifest)
    assert problem.replace("ROOT", str(manifest.root)) in found


def test_links_may_not_leave_root(make, tmp_path):
    (tmp_path / "secret").write_text(TRAIN)
    manifest = make(files="{train: link, dev: dev}")
    (manifest.root / "link").symlink_to(tmp_path / "secret")
    assert problems(manifest) == [
        f'm.yaml:7:20: tasks.t.files.train: "link" is a link that leaves root ({tmp_path.resolve()}/secret). '
        "Copy it, or move root."
    ]
    manifest = make(files="{train: inner, dev: dev}")
    (manifest.root / "inner").symlink_to(manifest.root / "train")
    assert list(find_files(manifest, "t", ["train"])["train"]) == ["inner"]


def test_hashes_are_verified_and_complete(make):
    right, wrong = hashlib.sha256(TRAIN.encode()).hexdigest(), "0" * 64
    dev = hashlib.sha256(DEV.encode()).hexdigest()
    load_task(make(sha256=f"{{train: {right}, dev: {dev}}}"), "t")
    assert problems(make(sha256=f'{{train: "{wrong}"}}')) == [
        f"train: SHA-256 is {right}, the manifest says {wrong}: the data changed. Get the declared version, or correct "
        "m.yaml:10:13: tasks.t.sha256.",
        f"m.yaml:10:13: tasks.t.sha256: no hash for a file that the task reads. Add dev: {dev}",
    ]


def test_problems_of_all_files_come_at_once(make):
    found = problems(make({"train": "a B-X\nb\n", "dev": "c I-X\nd Q\n"}))
    assert {it.split(":")[0] for it in found} == {"train", "dev"}
    assert any(it.startswith("train:2") for it in found)


# Labels


def test_declared_labels_keep_their_order(make):
    task, _ = load_task(make(labels="[MISC, LOC, PER]"), "t")
    assert task.labels == ("O", "B-MISC", "I-MISC", "B-LOC", "I-LOC", "B-PER", "I-PER")


def test_raw_labels_are_the_tags(make):
    task, _ = load_task(make({"train": "a DET\nb -\n", "dev": "b -\n"}, family="pos", scheme=""), "t")
    assert (task.labels, task.spec.metric, task.spec.tag_scheme) == (("DET", "-"), "accuracy", "raw")


def test_a_label_that_train_lacks_is_an_error_with_the_line_to_paste(make):
    dev = "x B-EVENT\ny I-EVENT\n\nz B-no\nu B-EVENT\n"
    assert problems(make({"dev": dev})) == [
        'dev:1: label "EVENT" (3x in dev, first here) is not among the 2 that train has.',
        'dev:4: label "no" (1x in dev, first here) is not among the 2 that train has.',
        "m.yaml:6:5: tasks.t.labels: to keep them write labels: [PER, LOC, EVENT, no]; or use label_map, or set "
        "on_unseen_label.",
    ]


def test_declared_labels_bind_train_too(make):
    found = problems(make(labels="[PER]"))
    assert found[0] == 'train:6: label "LOC" (1x in train, first here) is not among the 1 that the manifest lists.'
    assert found[2] == (
        "m.yaml:10:13: tasks.t.labels: to keep them write labels: [PER, LOC]; or use label_map, or set on_unseen_label."
    )


def test_unseen_labels_can_become_o_or_cost_the_sentence(make):
    dev = "x B-EVENT\ny I-EVENT\nAda B-PER\n\nz O\n"
    task, notices = load_task(make({"dev": dev}, on_unseen_label="map_to_o"), "t")
    assert [it.tags for it in task.splits["dev"]] == [("O", "O", "B-PER"), ("O",)]
    assert notices == ["t: words of dev set to O: 2, for labels that are not listed: EVENT."]
    task, notices = load_task(make({"dev": dev}, on_unseen_label="drop_sentence"), "t")
    assert texts(task.splits["dev"]) == ["z"]
    assert notices == ["t: sentences dropped from dev: 1, for labels that are not listed: EVENT."]
    assert problems(make({"dev": "x B-EVENT\n"}, on_unseen_label="drop_sentence")) == [
        "m.yaml:6:5: tasks.t: no sentence is left in dev."
    ]


def test_labels_are_renamed_before_anything_else(make):
    task, notices = load_task(make(label_map="{LOC: null, PER: person, GPE: place}"), "t")
    assert task.labels == ("O", "B-person", "I-person")
    assert task.splits["train"][0].tags == ("B-person", "I-person", "O")
    assert task.splits["train"][1].tags == ("O", "O")
    assert notices == ["t: label_map renames GPE, which occurs in none of train, dev."]


def test_two_types_can_become_one(make):
    task, _ = load_task(make({"train": "a B-X\nb B-Y\nc I-Y\n", "dev": "a B-X\n"}, label_map="{Y: X}"), "t")
    assert task.labels == ("O", "B-X", "I-X")
    assert task.splits["train"][0].tags == ("B-X", "B-X", "I-X")


def test_raw_labels_are_renamed_whole(make):
    files = {"train": "a B-X\nb Y\n", "dev": "a Y\n"}
    task, _ = load_task(make(files, family="tag", scheme="", label_map="{B-X: Z}"), "t")
    assert task.labels == ("Z", "Y")


def test_a_train_split_without_entities_is_an_error(make):
    assert problems(make({"train": "a O\n", "dev": "b O\n"})) == [
        "m.yaml:6:5: tasks.t: no word of train has a label other than O. Are columns and label_map right?"
    ]


# Splits and samples


def test_dev_comes_out_of_train_when_declared(make):
    train = "".join(f"w{i} B-X\n\n" for i in range(40))
    manifest = make({"train": train}, files="{train: train}", dev_fraction="0.25")
    task, notices = load_task(manifest, "t")
    assert (len(task.splits["train"]), len(task.splits["dev"])) == (30, 10)
    assert set(texts(task.splits["train"])).isdisjoint(texts(task.splits["dev"]))
    assert notices == ["t: dev is 10 sentences (25.0%) taken out of train by sentence; train keeps 30."]
    assert load_task(manifest, "t")[0].splits == task.splits


def test_whole_documents_become_dev(make):
    train = "".join("-DOCSTART- O\n\n" + f"w{d} B-X\n\n" * 4 for d in range(10))
    manifest = make(
        {"train": train}, files="{train: train}", dev_fraction="0.2", dev_by="document", docstart="-DOCSTART-"
    )
    task, _ = load_task(manifest, "t")
    assert len(task.splits["dev"]) == 8
    assert {it.document for it in task.splits["train"]}.isdisjoint({it.document for it in task.splits["dev"]})


def test_a_document_mark_that_does_not_occur_is_noticed(make):
    _, notices = load_task(make({"train": f"-DOCSTART- O\n\n{TRAIN}"}, docstart="-DOCSTART-"), "t")
    assert notices == ['t: docstart "-DOCSTART-" does not occur in dev.']


def test_max_examples_samples_train_but_not_its_labels(make):
    train = "".join(f"w{i} B-T{i}\n\n" for i in range(10))
    task, notices = load_task(make({"train": train, "dev": "x B-T1\n"}, max_examples="4"), "t")
    assert len(task.splits["train"]) == 4
    assert len(task.labels) == 21
    assert notices == ["t: train is a sample of 4 of 10 sentences (max_examples)."]
    _, notices = load_task(make(max_examples="99"), "t")
    assert notices == ["t: max_examples 99 leaves train as it is: it has 3 sentences."]


# Several tasks


def test_tasks_come_in_the_manifests_order_with_all_problems_at_once(make):
    make()
    spec = "{family: ner, columns: {word: 0, tag: 1}, scheme: iob2, files: {train: %s, dev: dev}}"
    lines = "".join(f"  {name}: {spec % train}\n" for name, train in (("b", "train"), ("a", "train"), ("c", "no1")))
    Path("m.yaml").write_text(f"version: 1\nname: demo\nroot: data\ntasks:\n{lines}")
    manifest = load_manifest(Path("m.yaml"))
    assert [it.name for it in load_tasks(manifest, names=["a", "b"])[0]] == ["b", "a"]
    Path("data/train").write_text("x\n")
    with pytest.raises(DataError) as caught:
        load_tasks(manifest)
    assert len(caught.value.problems) == 2  # the broken file once, although two tasks read it, and the missing one
    with pytest.raises(ManifestError) as caught:
        load_tasks(manifest, names=["d", "e"])
    assert len(caught.value.problems) == 2


def test_the_source_format_holds_what_the_manifest_says(make):
    fields = {"delimiter": "tab", "comment_prefix": '"# "', "docstart": "X", "encoding": "latin-1", "repair": "begin"}
    source = make(**fields).tasks["t"].layout()
    assert (source.format, source.scheme, source.word_column, source.tag_column) == ("conll", "iob2", 0, 1)
    assert (source.delimiter, source.comment_prefix, source.docstart) == ("tab", "# ", "X")
    assert (source.encoding, source.repair) == ("latin-1", "begin")
    spec = make(format="jsonl", columns="", fields="{tokens: words}").tasks["t"]
    assert (spec.layout().words_field, spec.layout().tags_field) == ("words", "tags")
    spec = make(format="jsonl_spans", columns="", scheme="", fields="{spans: ents}").tasks["t"]
    assert (spec.layout().text_field, spec.layout().spans_field) == ("text", "ents")


# Real data

SHIPPED = {
    "open_ner": {
        "wnut17": (3394, 1009, 1287, 6),
        "wikigold": (1526, 170, None, 4),
        "bc5cdr": (4560, 4581, 4797, 2),
        "ncbi_disease": (5424, 923, 940, 1),
        "crossner_politics": (200, 541, 651, 9),
        "crossner_literature": (100, 400, 416, 12),
        "crossner_music": (100, 380, 465, 13),
    },
    "open_targets": {
        "crossner_ai": (100, 350, 431, 14),
        "sec_filings": (1048, 116, 303, 4),
        "bc2gm": (12574, 2519, 5038, 1),
    },
    "open_slots": {"snips": (12406, 1378, 700, 39), "hwu64": (8964, 996, 1076, 54)},
    "open_pos": {"ud_ewt": (12544, 2001, 2077, 17)},
    "open_srl": {
        "propbank_ewt": (40391, 4913, 4795, 60),
        "propbank_ewt_segment": (40391, 4913, 4795, 60),
        "ud_ewt": (12544, 2001, 2077, 17),
    },
    "open_classification": {
        "banking77": (9003, 1000, 3080, 77),
        "rt_polarity": (8636, 960, 1066, 2),
        "boolq": (2354, 262, 654, 2),
    },
    "open_verbalizer": {"rt_cls": (8636, 960, 1066, 2), "rt_verbalizer": (8636, 960, 1066, 2)},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_open_manifests_read_the_published_data(name, monkeypatch):
    if not DATA.is_dir():
        pytest.skip(f"no data in {DATA}; set MPT_DATA")
    monkeypatch.setenv("MPT_DATA", str(DATA))
    manifest = load_manifest(REPO / "data_manifests" / f"{name}.yaml")
    tasks, notices = load_tasks(manifest, splits=("train", "dev", "test"))
    found = {
        task.name: (
            *(len(task.splits[split]) if split in task.splits else None for split in ("train", "dev", "test")),
            len(task.labels) // 2 if task.spec.kind.spans else len(task.labels),
        )
        for task in tasks
    }
    assert found == SHIPPED[name]
    if name == "open_classification":
        boolq = next(task for task in tasks if task.name == "boolq")
        passages = [{it.inputs[0][1] for it in them} for them in boolq.splits.values()]
        assert not passages[0] & passages[1] and not passages[0] & passages[2] and not passages[1] & passages[2]
    if name == "open_srl":
        said = "sentences without a predicate, which give no example: 1,983 of train, 426 of dev, 523 of test."
        assert notices == [f"propbank_ewt: {said}", f"propbank_ewt_segment: {said}"]
        assert sum("B-R-ARGM-ADJ" in one.tags for one in tasks[0].splits["test"]) == 1, "gold of test stays"
    if name == "open_ner":
        corpus = {task.name: task for task in tasks}
        assert "B-creative-work" in corpus["wnut17"].labels
        assert not {it.document for it in corpus["wikigold"].splits["train"]} & {
            it.document for it in corpus["wikigold"].splits["dev"]
        }


SRL = {"family": "srl", "format": "props", "scheme": "", "columns": "{word: 0, predicate: 1, arguments: 2}"}
PROPS = "Ada - (A0*) (A1*)\nsaw see (V*) *\nBob - (A1*) *\ngo go * (V*)\n\nYes -\n\nBo - *\nran run (V*)\n"


def test_sentences_without_a_predicate_are_left_out_and_told(make):
    task, notices = load_task(make({"train": PROPS, "dev": "go go (V*)\n"}, **SRL), "t")
    assert [(it.words[it.predicate], it.words[0]) for it in task.splits["train"]] == [
        ("saw", "Ada"),
        ("go", "Ada"),
        ("ran", "Bo"),
    ]
    assert notices == ["t: sentences without a predicate, which give no example: 1 of train, 0 of dev."]
    assert (task.spec.metric, task.spec.tag_scheme) == ("srl_f1", "iob2")
    assert task.labels == ("O", "B-A0", "I-A0", "B-V", "I-V", "B-A1", "I-A1")


def test_the_predicates_of_a_sentence_stay_on_one_side(make):
    text = "".join(PROPS.replace("Ada", f"Ada{n}").replace("Bo -", f"Bo{n} -") + "\n" for n in range(20))
    manifest = make({"train": text}, **SRL, files="{train: train}", dev_fraction="0.3")
    task, notices = load_task(manifest, "t")
    train, dev = ({it.words for it in task.splits[split]} for split in ("train", "dev"))
    assert dev and not train & dev
    assert any("taken out of train by sentence" in notice for notice in notices)


def test_predicates_of_one_sentence_do_not_repeat_it(make):
    from mpt.data.overlaps import find_overlaps

    long = "a - * *\nb - * *\nc - * *\nd do (V*) *\ne be * (V*)\n"
    task, _ = load_task(make({"train": long, "dev": "x do (V*)\n"}, **SRL), "t")
    assert find_overlaps([task]) == []
    task, _ = load_task(make({"train": f"{long}\n{long}", "dev": long}, **SRL), "t")
    found = [(it.split, it.other_split, it.count, it.of) for it in find_overlaps([task])]
    assert found == [("dev", "train", 2, 2), ("train", "train", 2, 4)]


@pytest.mark.parametrize("mark", ["suffix", "segment"])
def test_layout_and_mark_reach_the_reader(make, mark):
    spec = make({"train": PROPS, "dev": PROPS}, **SRL, predicate=mark).tasks["t"]
    source = spec.layout()
    assert (source.predicate_column, source.argument_column, source.trailing_columns) == (1, 2, 0)
    assert spec.predicate == mark and spec.metric == "srl_f1"


def test_a_test_split_is_taken_out_of_train_too(tmp_path):
    lines = [json.dumps({"text": f"text {n}", "label": "ab"[n % 2], "source": f"s{n // 10}"}) for n in range(200)]
    (tmp_path / "all.jsonl").write_text("\n".join(lines) + "\n")
    fields = "{document: source}"
    path = tmp_path / "m.yaml"
    path.write_text(
        "version: 1\nname: m\ntasks:\n  t: {family: classification, format: jsonl, files: {train: all.jsonl}, "
        f"fields: {fields}, dev_fraction: 0.2, test_fraction: 0.2, dev_by: document}}\n"
    )
    (task,), notices = load_tasks(load_manifest(path), splits=("train", "dev", "test"))
    sizes = {split: len(them) for split, them in task.splits.items()}
    assert sizes == {"train": 130, "dev": 30, "test": 40}
    documents = {split: {it.document for it in them} for split, them in task.splits.items()}
    assert not documents["train"] & documents["test"] and not documents["dev"] & documents["test"]
    assert notices[0] == "t: test is 40 texts (20.0%) taken out of train by document; train keeps 160."
    (without,), _ = load_tasks(load_manifest(path))
    assert without.splits["train"] == task.splits["train"]


def test_the_label_that_f1_counts_is_one_of_train(tmp_path):
    lines = [json.dumps({"text": f"text {n}", "label": n % 2}) for n in range(4)]
    for name in ("all.jsonl", "dev.jsonl"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    text = (
        "version: 1\nname: m\ntasks:\n  t: {family: classification, format: jsonl, files: {train: all.jsonl, "
        'dev: dev.jsonl}, score: f1, positive: "%s"}\n'
    )
    (tmp_path / "m.yaml").write_text(text % "1")
    (task,), _ = load_tasks(load_manifest(tmp_path / "m.yaml"))
    assert (task.spec.metric, task.spec.positive, task.labels) == ("f1", "1", ("0", "1"))
    (tmp_path / "m.yaml").write_text(text % "2")
    with pytest.raises(DataError, match=r'tasks.t.positive: "2" is not one of the 2 labels: 0, 1. Correct it.'):
        load_tasks(load_manifest(tmp_path / "m.yaml"))


def test_the_examples_of_a_line_stay_on_one_side(tmp_path):
    lines = [
        {"about": f"p{n}", "asked": [{"text": f"{n} {i}", "label": "x"} for i in range(1 + n % 4)]} for n in range(30)
    ]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "m.yaml").write_text(
        "version: 1\nname: m\ntasks:\n  t: {family: classification, format: jsonl, files: {train: all.jsonl}, "
        "each: asked, fields: {text: asked.text, label: asked.label}, dev_fraction: 0.3, dev_by: document}\n"
    )
    (task,), notices = load_tasks(load_manifest(tmp_path / "m.yaml"))
    train, dev = ({it.document for it in task.splits[split]} for split in ("train", "dev"))
    assert not train & dev and len(train | dev) == 30
    assert len(task.splits["dev"]) == 22, notices


# The header and a line of each published layout, its texts, its label and its files; made up, as the data are not ours.
GLUE_HEADER = "index\tpromptID\tpairID\tgenre\tparse\tsentence1\tsentence2\tlabel1\tgold_label"
PUBLISHED = {
    ("paper_glue", "cola"): (
        "",
        'gj04\t1\t\tShe@ "ran.',
        ('She@ "ran.',),
        "1",
        ("glue/CoLA/train.tsv", "glue/CoLA/dev.tsv"),
    ),
    ("paper_glue", "mrpc"): (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t70\t71\tHe@ said "no.\tHe denied.',
        ('He@ said "no.', "He denied."),
        "1",
        ("glue/MRPC/train.tsv", "glue/MRPC/dev.tsv"),
    ),
    ("paper_glue", "mnli"): (
        GLUE_HEADER,
        "0\t1\t1n\tfiction\t( a )\tIt@ rains.\tIt is wet.\tneutral\tentailment",
        ("It@ rains.", "It is wet."),
        "entailment",
        ("glue/MNLI/train.tsv", "glue/MNLI/dev_matched.tsv"),
    ),
    ("paper_superglue", "wic"): (
        "",
        '{"word": "place", "sentence1": "A@ place.", "sentence2": "Places.", "idx": 0, "label": false, "start1": 2}',
        ("place: A@ place.", "Places."),
        "false",
        ("superglue/WiC/train.jsonl", "superglue/WiC/val.jsonl"),
    ),
    ("paper_superglue", "wsc"): (
        "",
        '{"text": "It@ fell.", "target": {"span2_index": 0, "span1_index": 2, "span1_text": "the cup", '
        '"span2_text": "It"}, "idx": 0, "label": true}',
        ("It: It@ fell.", "the cup"),
        "true",
        ("superglue/WSC/train.jsonl", "superglue/WSC/val.jsonl"),
    ),
    ("paper_superglue", "cb"): (
        "",
        '{"premise": "It@ may rain.", "hypothesis": "it rains", "label": "neutral", "idx": 0}',
        ("It@ may rain.", "it rains"),
        "neutral",
        ("superglue/CB/train.jsonl", "superglue/CB/val.jsonl"),
    ),
    ("paper_superglue", "multirc"): (
        "",
        '{"idx": 0, "version": 1.1, "passage": {"text": "It@ fell.", "questions": [{"question": "What fell?", '
        '"answers": [{"text": "It", "idx": 0, "label": 1}], "idx": 0}]}}',
        ("It@ fell.", "What fell? It"),
        "1",
        ("superglue/MultiRC/train.jsonl", "superglue/MultiRC/val.jsonl"),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED, ids="-".join)
def test_the_paper_manifests_read_lines_of_the_published_layouts(name, monkeypatch, tmp_path):
    header, line, texts, label, files = PUBLISHED[name]
    lines = [line.replace("@", str(i)) for i in range(10)]
    for path in files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("\n".join([*([header] if header else []), *lines]) + "\n")
    monkeypatch.setenv("MPT_DATA", str(tmp_path))
    manifest = load_manifest(REPO / "data_manifests" / f"{name[0]}.yaml")
    (task,), _ = load_tasks(manifest, names=[name[1]], splits=("train", "dev", "test"))
    first = task.splits["test"][0]
    assert first.inputs == (tuple(text.replace("@", "0") for text in texts),)
    assert first.tags == (label,)
    assert len(task.splits["train"]) + len(task.splits["dev"]) == 10
