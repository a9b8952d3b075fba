import json
import sys

import pytest
from common.bad_input import CONFIG, call
from common.runs import files_of

from mpt import cli
from mpt.base.errors import ConfigError

COMMANDS = ("validate", "pretrain", "transfer", "evaluate", "predict", "export", "import")


@pytest.fixture
def here(world, tmp_path):
    """A folder with a configuration over the world's data and backbone."""
    text = CONFIG.replace("data/", f"{world.data}/").replace("reference: backbone", f"reference: {world.backbone}")
    (tmp_path / "run.yaml").write_text(text)
    return tmp_path


def test_help_names_every_command():
    status, out, _ = call("--help")
    assert status == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    status, out, err = call(command, "--help")
    assert (status, err) == (0, "")
    assert "Usage" in out


def test_without_a_command_there_is_help():
    status, out, err = call()
    assert status == 2
    assert "Usage" in out + err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pretrian",), "pretrian"),
        (("pretrain",), "--config"),
        (("pretrain", "--config", "run.yaml", "--sed", "1"), "--sed"),
        (("validate", "x.yaml", "--passes", "-1"), "--passes"),
    ],
)
def test_wrong_usage_ends_with_status_two(arguments, told):
    status, _, err = call(*arguments)
    assert status == 2
    assert told in err
    assert "Traceback" not in err


def test_a_users_error_is_a_message_and_status_two(capsys):
    def command():
        raise ConfigError(["a: wrong", "b: wrong"])

    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "error: a: wrong\nb: wrong\n")


def test_an_interrupt_ends_with_status_130(capsys):
    def command():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert end.value.code == 130
    assert "--resume" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    def command():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.main(command)


def test_a_run_goes_to_a_folder_named_after_its_configuration(here):
    status, out, err = call("pretrain", "--config", "run.yaml")
    assert (status, err) == (0, "")
    assert (here / "runs" / "run" / "results.json").is_file()
    assert "run folder: runs/run" in out


def test_settings_on_the_command_line_and_resuming(here):
    flags = ("--config", "run.yaml", "--out", "a", "--set", "training.seed=5", "--set", "evaluation.every_steps=1")
    assert call("pretrain", *flags)[0] == 0
    before = files_of(here / "a" / "checkpoints")
    status, _, err = call("pretrain", *flags, "--resume", "must")
    assert (status, err) == (0, "")
    assert files_of(here / "a" / "checkpoints") == before
    assert "seed: 5" in (here / "a" / "config.yaml").read_text()


def test_transfer_flags_reach_the_settings(world, here):
    (here / "transfer.yaml").write_text(
        "optimizer: {warmup_steps: 1}\ntraining: {steps: 2}\ntuning: {prompt_learning_rates: []}\n"
    )
    flags = ("--init-from", str(world.run), "--manifest", str(world.data / "target.yaml"), "--config", "transfer.yaml")
    flags += ("--shots", "5, 8", "--seeds", "0,3", "--baseline", "", "--head", "fresh", "--task", "firms")
    status, out, err = call("transfer", *flags)
    assert (status, err) == (0, "")
    runs = json.loads((here / "runs" / "transfer_target" / "results.json").read_text())["runs"]
    assert [(it["shots"], it["seed"], it["method"]) for it in runs] == [
        (5, 0, "transfer"),
        (5, 3, "transfer"),
        (8, 0, "transfer"),
        (8, 3, "transfer"),
    ]
    assert "runs/transfer_target" in out


def test_both_baselines(world, here):
    (here / "transfer.yaml").write_text(
        "optimizer: {warmup_steps: 1}\ntraining: {steps: 2}\ntuning: {prompt_learning_rates: []}\nseeds: [0]\n"
    )
    flags = ("--init-from", str(world.run), "--manifest", str(world.data / "target.yaml"), "--config", "transfer.yaml")
    assert call("transfer", *flags, "--baseline", "scratch,head", "--out", "b")[0] == 0
    runs = json.loads((here / "b" / "results.json").read_text())["runs"]
    assert [it["method"] for it in runs] == ["scratch", "head", "transfer"]


@pytest.mark.parametrize(
    ("option", "value"), [("--shots", "0"), ("--shots", "1,,2"), ("--seeds", "-1"), ("--seeds", "a")]
)
def test_numbers_are_whole_and_in_range(world, option, value):
    flags = ("--init-from", str(world.run), "--manifest", str(world.data / "target.yaml"))
    status, _, err = call("transfer", *flags, option, value)
    assert status == 2
    assert f'{option} "{value}": expected whole numbers from {0 if option == "--seeds" else 1}' in err


def test_evaluate_prints_and_writes(world, here):
    flags = ("--manifest", str(world.data / "mixture.yaml"), "--split", "dev", "--out", "scores")
    status, out, err = call("evaluate", str(world.run), *flags)
    assert (status, err) == (0, "")
    assert "people" in out
    assert sorted(path.name for path in (here / "scores").iterdir()) == ["evaluation-dev.json", "evaluation-dev.md"]


def test_evaluate_against_another_model(world, here):
    checkpoint = sorted((world.run / "checkpoints").iterdir())[0]
    flags = ("--manifest", str(world.data / "mixture.yaml"), "--task", "words", "--against", str(checkpoint))
    status, out, err = call("evaluate", str(world.run), *flags)
    assert (status, err) == (0, "")
    assert "words: " in out
    assert "interval over sentences" in out


def test_predict_columns_and_text(world, here):
    source = world.data / "places" / "test.txt"
    status, out, err = call("predict", str(world.run), str(source), "--out", "a.txt", "--task", "places")
    assert (status, err) == (0, "")
    assert "30 sentences" in out
    (here / "in.txt").write_text("Ada in Kiev\n")
    flags = ("--out", "b.jsonl", "--task", "places", "--format", "text")
    assert call("predict", str(world.run), "in.txt", *flags)[0] == 0
    assert json.loads((here / "b.jsonl").read_text())["words"] == ["Ada", "in", "Kiev"]


def test_predict_columns_of_another_layout(world, here):
    (here / "in.tsv").write_text("1\tAda\tx\n2\tin\ty\n")
    flags = ("--task", "places", "--format", "conll", "--word-column", "1", "--tag-column", "2", "--delimiter", "tab")
    assert call("predict", str(world.run), "in.tsv", "--out", "out.tsv", *flags)[0] == 0
    rows = [line.split("\t") for line in (here / "out.tsv").read_text().splitlines()]
    assert [row[:2] for row in rows] == [["1", "Ada"], ["2", "in"]]
    assert all(row[2] in ("O", "B-PER", "B-LOC") for row in rows)


def test_type_and_device_are_chosen_and_told(world, here):
    """Without a word the processor computes, in the type of the training."""
    text = ("--manifest", str(world.data / "mixture.yaml"), "--task", "words")
    plain, other = (call("evaluate", str(world.run), *text, *flags) for flags in ((), ("--dtype", "bfloat16")))
    assert plain[0] == other[0] == 0
    told = "trained in float32, opened in bfloat16: scores may differ slightly"
    assert told not in plain[1] and told in other[1]
    source = ("predict", str(world.run), str(world.data / "places" / "test.txt"), "--task", "places", "--out")
    assert told in call(*source, "a.txt", "--dtype", "bfloat16", "--device", "cpu")[1]
    assert told not in call(*source, "b.txt", "--dtype", "float32")[1]
    for command in (("evaluate", str(world.run), *text), (*source, "c.txt"), ("export", str(world.run), "adapter")):
        status, _, err = call(*command, "--device", "cuda:99")
        assert status == 2 and '--device "cuda:99": this machine has auto, cpu' in err


def test_export_and_import_give_the_same_predictions(world, here):
    flags = ("--set", "backbone.positions=shifted", "--set", "tasks=[places]")
    assert call("pretrain", "--config", "run.yaml", "--out", "run", *flags)[0] == 0
    status, out, err = call("export", "run", "adapter")
    assert (status, err) == (0, "")
    assert "task places: adapter (peft)" in out
    manifest = ("--manifest", str(world.data / "mixture.yaml"), "--task", "places", "--dtype", "float32")
    status, out, err = call("import", "peft", "adapter", "back", *manifest)
    assert (status, err) == (0, "")
    assert "adapter (peft): back/checkpoints/step-00000000" in out
    text = str(world.data / "places" / "test.txt")
    for model in ("run", "back"):
        assert call("predict", model, text, "--out", f"{model}.txt")[0] == 0
    assert (here / "run.txt").read_bytes() == (here / "back.txt").read_bytes()


def test_low_rank_updates_are_exported_merged_and_built_upon(world, here):
    flags = ("--set", "method=low-rank", "--set", "tasks=[places]")
    assert call("pretrain", "--config", "run.yaml", "--out", "run", *flags)[0] == 0
    status, out, err = call("export", "run", "primed", "--format", "backbone")
    assert (status, err) == (0, "")
    assert "task all: primed (backbone)" in out
    status, _, err = call("pretrain", "--config", "run.yaml", "--out", "on", "--set", "backbone.reference=primed")
    assert (status, err) == (0, "")
    assert call("export", "run", "adapter")[0] == 0
    manifest = ("--manifest", str(world.data / "mixture.yaml"), "--task", "places", "--dtype", "float32")
    assert call("import", "peft", "adapter", "back", *manifest)[0] == 0
    text = str(world.data / "places" / "test.txt")
    for model in ("run", "back"):
        assert call("predict", model, text, "--out", f"{model}.txt")[0] == 0
    assert (here / "run.txt").read_bytes() == (here / "back.txt").read_bytes()


def test_labels_of_an_adapter_may_come_from_the_command_line(world, here):
    flags = ("--set", "backbone.positions=shifted", "--set", "tasks=[people]")
    assert call("pretrain", "--config", "run.yaml", "--out", "run", *flags)[0] == 0
    assert call("export", "run", "adapter", "--format", "peft")[0] == 0
    (here / "adapter" / "config.json").unlink()
    manifest = ("--manifest", str(world.data / "mixture.yaml"), "--task", "people")
    assert call("import", "peft", "adapter", "back", *manifest)[0] == 2
    assert call("import", "peft", "adapter", "back", *manifest, "--labels", "O, B-PER, I-PER")[0] == 0


def test_validate_prints_the_mixture_or_json(world):
    status, out, err = call("validate", str(world.data / "mixture.yaml"))
    assert (status, err) == (0, "")
    assert "people" in out
    status, out, _ = call("validate", str(world.data / "mixture.yaml"), "--json")
    assert [task["name"] for task in json.loads(out)["tasks"]] == ["people", "places", "words"]


def test_lines_are_not_folded_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert cli.terminal().width == 120
