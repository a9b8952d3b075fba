import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from mpt.base.errors import ConfigError
from mpt.base.strict_yaml import FieldErrors, Settings, dump, load_model
from mpt.base.yaml_tree import MAX_BYTES, MAX_VALUES, core_scalar


class Flat(Settings):
    kind: Literal["flat"]
    length: int = 4


class Mlp(Settings):
    kind: Literal["mlp"]
    hidden: int


class Nested(Settings):
    name: str = "x"
    rate: float | None = None


class Example(Settings):
    rate: Annotated[float, Field(gt=0)] = 1.0
    steps: int = 1
    flag: bool = False
    path: Path = Path("data")
    mode: Literal["fast", "slow"] = "fast"
    nested: Nested = Nested()
    optional: Nested | None = None
    prompt: Annotated[Flat | Mlp, Field(discriminator="kind")] = Flat(kind="flat")
    layers: Literal["all"] | Annotated[int, Field(ge=1)] | tuple[int, ...] = "all"
    labels: tuple[str, ...] = ()
    tasks: dict[str, Nested] = Field(default_factory=dict)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)

    @model_validator(mode="after")
    def _check(self) -> "Example":
        if self.steps == 13:
            raise FieldErrors({"steps": "thirteen.", "nested.name": "unlucky."})
        return self


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(text: str | bytes, *overrides: str) -> Example:
        Path("c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_model(Path("c.yaml"), Example, error=ConfigError, overrides=overrides)

    return run


def problems(load, text, *overrides) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    return caught.value.problems


# What is accepted


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-2", 0.03), ("3.0e-2", 0.03), ("1", 1.0), (".5", 0.5), ("1.", 1.0), ("+1E3", 1000.0), ("0x10", 16.0)],
)
def test_numbers_of_the_core_schema_are_numbers(load, text, value):
    assert load(f"rate: {text}").rate == value


@pytest.mark.parametrize("text", ["no", "on", "yes", "NO", "2020-01-01", "12:30", "1_000", "0b1", "=", "<<"])
def test_what_other_yaml_versions_convert_is_text(load, text):
    assert load(f"labels: [{text}]").labels == (text,)


def test_leading_zeros_do_not_make_an_octal(load):
    assert load("steps: 010").steps == 10


def test_a_list_becomes_a_tuple_and_text_a_path(load):
    read = load("labels: [a, b]\npath: x/y\noptional: {rate: 1}\nprompt: {kind: mlp, hidden: 3}")
    assert (read.labels, read.path) == (("a", "b"), Path("x/y"))
    assert read.optional == Nested(rate=1.0)
    assert read.prompt == Mlp(kind="mlp", hidden=3)


def test_a_byte_order_mark_and_crlf_are_read(load):
    assert load(b"\xef\xbb\xbfsteps: 3\r\nflag: true\r\n") == Example(steps=3, flag=True)


def test_an_alias_repeats_its_value(load):
    assert load("tasks: {a: &n {name: q}, b: *n}").tasks["b"].name == "q"


def test_no_file_means_defaults():
    assert load_model(None, Example, error=ConfigError, overrides=["nested.rate=2"]).nested.rate == 2.0


# Overrides


def test_overrides_replace_add_and_parse_yaml(load):
    read = load("steps: 1\nnested: {name: a}", "steps=5", "nested.rate=3e-2", "labels=[x, 'y']", "tasks.new.name=q")
    assert (read.steps, read.nested, read.labels) == (5, Nested(name="a", rate=0.03), ("x", "y"))
    assert read.tasks == {"new": Nested(name="q")}


def test_a_later_override_wins(load):
    assert load("steps: 0", "steps=1", "steps=2").steps == 2


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("steps=x", '--set steps: expected a whole number, got "x".'),
        ("nested.nam=x", '--set nested.nam: unknown key. Did you mean "name"?'),
        ("flag.deep=1", "--set flag.deep: flag is true or false, it has no deep. Set flag as a whole."),
        ("steps", "--set steps: expected dotted.path=value, for example --set optimizer.learning_rate=3e-2."),
        ("steps=", '--set steps: the value is missing. Write steps=null or steps="" if that is meant.'),
        ("nested={name: 3}", '--set nested: nested.name: expected text, got 3. Quote it: "3".'),
        ("steps=!!int 3", "--set steps: steps: tag tag:yaml.org,2002:int is not allowed."),
        ("nested={name: a, name: b}", "--set nested: nested.name: defined twice"),
        ("rate=[", "--set rate: not YAML"),
    ],
)
def test_an_override_is_checked_like_the_file(load, override, problem):
    (found,) = problems(load, "flag: true", override)
    assert found.startswith(problem)


# What is refused, and how


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rate: '3'", 'c.yaml:1:7: rate: expected a number, got "3". Remove the quotes.'),
        ("rate: true", "c.yaml:1:7: rate: expected a number, got the boolean true."),
        ("rate: .nan", "c.yaml:1:7: rate: expected a finite number, got .nan."),
        ("rate: 1e999", "c.yaml:1:7: rate: expected a finite number, got 1e999."),
        ("rate: 0", "c.yaml:1:7: rate: must be above 0, got 0."),
        ("rate:", "c.yaml:1:6: rate: expected a number, got nothing. Give it a value or remove the line."),
        ("steps: 1.5", "c.yaml:1:8: steps: expected a whole number, got 1.5."),
        ("flag: yes", 'c.yaml:1:7: flag: expected true or false, got "yes". Write true or false.'),
        ("mode: fsat", 'c.yaml:1:7: mode: "fsat" is not one of fast, slow. Did you mean "fast"?'),
        ("labels: [a, true]", 'c.yaml:1:13: labels[1]: expected text, got the boolean true. Quote it: "true".'),
        ("labels: [a, ~]", 'c.yaml:1:13: labels[1]: expected text, got null. Quote it: "~".'),
        ("labels: [007]", 'c.yaml:1:10: labels[0]: expected text, got 007. Quote it: "007".'),
        ("labels: a", 'c.yaml:1:9: labels: expected a list, got "a".'),
        ("seeds: []", "c.yaml:1:8: seeds: needs at least 1, has 0."),
        ("nested: 3", "c.yaml:1:9: nested: expected a mapping, got 3."),
        ("nested: {nmae: a}", 'c.yaml:1:10: nested.nmae: unknown key. Did you mean "name"?'),
        ("optional: {zzz: a}", "c.yaml:1:12: optional.zzz: unknown key. Known here: name, rate."),
        ("tasks: {a: {rte: 1}}", 'c.yaml:1:13: tasks.a.rte: unknown key. Did you mean "rate"?'),
        ("prompt: {kind: mlp}", "c.yaml:1:9: prompt.hidden: is required. Add it."),
        ("prompt: {kind: flat, hiden: 1}", "c.yaml:1:22: prompt.hiden: unknown key. Known here: kind, length."),
        ("prompt: {kind: mpl}", 'c.yaml:1:16: prompt.kind: "mpl" is not one of flat, mlp. Did you mean "mlp"?'),
        ("prompt: {}", "c.yaml:1:9: prompt.kind: is required. Add it."),
        ("layers: upper", 'c.yaml:1:9: layers: expected "all", a whole number or a list, got "upper".'),
        ("layers: 0", "c.yaml:1:9: layers: must be at least 1, got 0."),
        ("layers: [1, x]", 'c.yaml:1:13: layers[1]: expected a whole number, got "x".'),
        ("steps: 1\nsteps: 2", "c.yaml:2:1: steps: defined twice, first at c.yaml:1:1. Keep one."),
        ("1: 2", 'c.yaml:1:1: key 1 is a number, not text. Quote it: "1".'),
        ("steps: !!python/object:os.system 3", "c.yaml:1:8: steps: tag tag:yaml.org,2002:python/object:os.system is"),
        ("steps: 1\n---\nsteps: 2", "c.yaml:2:1: a second document starts here; a configuration holds one."),
        ("%YAML 1.1\n---\nsteps: 1", "c.yaml:2:1: YAML directives"),
        ("nested:\n\tname: a", "c.yaml:2:1: a tab cannot indent or separate in YAML. Use spaces."),
        ("nested: name: a", 'c.yaml:1:13: not YAML: a second ": " in one line'),
        ("labels: [a", "c.yaml:1:11: not YAML:"),
        ("- 1", "c.yaml:1:1: a configuration is a mapping of names to values, this is a list."),
        ("", "c.yaml: the configuration is empty."),
        ("# only a comment", "c.yaml: the configuration is empty."),
        ("steps: *x", "c.yaml:1:8: alias *x has no anchor &x before it."),
        ("nested: &n {name: *n}", "c.yaml:1:19: alias *n has no anchor &n before it."),
        ("<<: {steps: 1}", "c.yaml:1:1: merge keys (<<) are not YAML 1.2."),
        ("{a: b}: 1", "c.yaml:1:1: a key must be text, this is a mapping."),
        ('labels: ["\\ud800"]', "c.yaml:1:10: holds half of a surrogate pair."),
        ("labels: " + "[" * 50 + "]" * 50, "c.yaml:1:41: nested more than 32 levels deep."),
        ("labels: [\x01]", "c.yaml: not YAML: unacceptable character"),
        (b"steps: 1\nmode: \xe9", "c.yaml:2: byte 0xe9 is not UTF-8."),
    ],
)
def test_a_problem_names_its_place_and_cure(load, text, problem):
    assert problems(load, text)[0].startswith(problem)


def test_every_problem_is_reported_at_once_from_top_to_bottom(load):
    found = problems(load, "stepz: 1\nrate: x\nflag: 1\nflag: 2\nnested: {name: 1}", "mode=x")
    assert [it.split(": ")[0] for it in found] == [
        "c.yaml:1:1",
        "c.yaml:2:7",
        "c.yaml:3:7",
        "c.yaml:4:1",
        "c.yaml:5:16",
        "--set mode",
    ]


def test_a_long_list_of_problems_is_cut(load):
    found = problems(load, "\n".join(f"key{i}x: 1" for i in range(50)))
    assert len(found) == 21
    assert found[-1] == "... and 30 more problems."


def test_no_words_of_the_validation_library_reach_the_user(load):
    text = "\n".join(
        problems(load, "rate: x\nsteps: [1]\nprompt: 3\nlayers: {}\nlabels: 1\ntasks: [1]\npath: 3\nmode: 1")
    )
    for jargon in ("Input", "pydantic", "errors.", "validat", "tuple", "dict", "str ", "instance"):
        assert jargon not in text


def test_several_problems_of_one_validator_have_their_own_places(load):
    assert problems(load, "steps: 13\nnested: {name: a}") == [
        "c.yaml:1:8: steps: thirteen.",
        "c.yaml:2:16: nested.name: unlucky.",
    ]


def test_aliases_cannot_unfold_without_end(load):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 6)]
    assert problems(load, "\n".join(lines)) == [f"c.yaml:5:5: more than {MAX_VALUES} values once aliases are expanded."]


def test_an_oversized_file_is_refused_unread(load):
    (found,) = problems(load, "#" * (MAX_BYTES + 1))
    assert found.startswith("c.yaml: larger than 4 MiB")


def test_a_missing_file_names_the_nearest(load, tmp_path):
    load("steps: 1")
    with pytest.raises(ConfigError, match=r'd\.yaml: recipe not found. Did you mean "c\.yaml"\?'):
        load_model(Path("d.yaml"), Example, error=ConfigError, kind="recipe")
    with pytest.raises(ConfigError, match="cannot read the configuration: Is a directory"):
        load_model(tmp_path, Example, error=ConfigError)


def test_settings_are_frozen(load):
    with pytest.raises(ValueError, match="frozen"):
        load("steps: 1").steps = 2


# Writing

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12) | st.sampled_from(
    [
        "no",
        "null",
        "~",
        "",
        "3e-2",
        ".5e3",
        "true",
        "0x1F",
        "010",
        "- a",
        "a: b",
        "# c",
        "'",
        '"',
        "\n",
        "a\nb",
        " x ",
        "\t",
        "*",
        "&a",
        "!x",
        "%",
        "@",
        "{",
        "[a",
        "2020-01-01",
        "<<",
        "=",
        "?",
        "|",
        ">",
        "\x85",
        "\u2028",
        "---",
        "...",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    labels=st.lists(texts, max_size=4).map(tuple),
    tasks=st.dictionaries(
        texts,
        st.builds(Nested, name=texts, rate=st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        max_size=3,
    ),
    steps=st.integers(-(10**20), 10**20),
    rate=st.floats(min_value=1e-300, allow_infinity=False),
)
def test_what_is_dumped_reads_back_equal(tmp_path_factory, labels, tasks, steps, rate):
    original = Example(labels=labels, tasks=tasks, steps=steps, rate=rate, layers=(1, 2), optional=Nested())
    if steps == 13:
        return
    path = tmp_path_factory.mktemp("dump") / "c.yaml"
    path.write_text(dump(original), encoding="utf-8")
    assert load_model(path, Example, error=ConfigError) == original


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none())
def test_a_scalar_of_json_means_the_same_in_yaml(value):
    read = core_scalar(json.dumps(value))
    assert read == value
    assert type(read) is type(value)
