"""The rules that keep the code readable and safe, checked on the source. Each has a twin that breaks it on purpose."""

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from mpt.base.settings import PartKind
from mpt.data.families.family import FAMILIES

ROOT = Path(__file__).parents[1]
EXAMPLES = {path.stem for path in (ROOT / "examples").glob("*.py")}
"""Programs and what they import from beside them, by name."""
SOURCES = sorted(path for folder in ("mpt", "examples", "pipelines") for path in (ROOT / folder).rglob("*.py"))

LAYERS = (
    "base",
    "data",
    "model",
    "training",
    "evaluation",
    "serving",
    "experiments",
    "cli",
    "examples",
    "pipelines",
)
"""A module imports from its own layer and those before it."""

MAX_LINES = {"mpt": 400, "examples": 400, "pipelines": 80}
MAX_FUNCTION_LINES = 60
MAX_CLASS_LINES = 150
MAX_MODULES = 14  # of a folder, __init__ included: a dozen or one more
LIGHT = (
    "mpt.cli",
    "mpt.data.validate",
    "synthetic",
    "mpt.evaluation.report",
    "mpt.evaluation.bootstrap",
    "mpt.data.families.of_task",
)
"""Needed by commands that load no model, which therefore must not wait for torch."""

KINDS = set(get_args(PartKind))
PARTS = {"Prompt", "LowRank", "InputPrompt", "Weights"}
OF_PARTS = {"kind", "parts", "specs"}
"""What tells of the kind of a part; nothing outside of mpt/model/state may branch on it."""


UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "yaml.load", "os.system"}
UNSAFE_CALLS |= {"torch.hub.load", "importlib.import_module", "pandas.read_pickle"}
UNSAFE_KEYWORDS = {"trust_remote_code", "allow_pickle", "shell"}
LOADERS = {"from_pretrained", "from_config"}
"""transformers' methods that would run a repository's code if they were told to; each says that they are not."""


def layer(module):
    parts = module.split(".")
    if parts[0] == "pipelines":
        return "pipelines"
    if parts[0] in {"examples", *EXAMPLES}:
        return "examples"
    second = parts[1] if len(parts) > 1 else ""
    return second if second in LAYERS else "base"


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(tree):
    """Every module that is imported anywhere, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward_imports(module, tree):
    rank = LAYERS.index(layer(module))
    own = (name for name in imports(tree) if name.partition(".")[0] in {"mpt", "pipelines", "examples", *EXAMPLES})
    return sorted({name for name in own if LAYERS.index(layer(name)) > rank})


def long_functions(tree):
    """Name and length of functions over the limit, signature included, docstring not."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = [
        (node.name, lines(node) - (lines(node.body[0]) if ast.get_docstring(node) is not None else 0))
        for node in functions
    ]
    return [(name, size) for name, size in sizes if size > MAX_FUNCTION_LINES]


def long_classes(tree):
    """Name and length of classes over the limit, docstrings included."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return [(node.name, lines(node)) for node in classes if lines(node) > MAX_CLASS_LINES]


def branches_on_parts(tree):
    """Where code asks of which kind a part is: by its class, or by the name of its kind."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and terminal(node.func) in ("isinstance", "issubclass"):
            asked = {terminal(it) for argument in node.args[1:] for it in ast.walk(argument)} & PARTS
        elif isinstance(node, ast.MatchClass):
            asked = {terminal(node.cls)} & PARTS
        elif isinstance(node, ast.Compare):
            asked = asked_kinds([node.left, *node.comparators])
        elif isinstance(node, ast.Match):
            values = [it for case in node.cases for it in ast.walk(case.pattern) if isinstance(it, ast.expr)]
            asked = asked_kinds([node.subject, *values])
        elif isinstance(node, ast.Subscript):
            asked = asked_kinds([node.value, node.slice])
        elif isinstance(node, ast.Call) and terminal(node.func) in ("get", "pop"):
            asked = asked_kinds([node.func, *node.args[:1]])
        else:
            continue
        found += sorted(asked)
    return found


def asked_kinds(expressions):
    """Kinds that stand beside something that tells of the kind of a part."""
    inside = [it for expression in expressions for it in ast.walk(expression)]
    kinds = {it.value for it in inside if isinstance(it, ast.Constant) and it.value in KINDS}
    return kinds if {terminal(it) for it in inside} & OF_PARTS else set()


def terminal(node):
    """The last name of `a.b.c`, or of `c`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def full_folders(paths):
    counts = Counter(path.parent.as_posix() for path in paths)
    return {folder for folder, count in counts.items() if count > MAX_MODULES}


def class_names(trees):
    """Names of all classes."""
    return [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def twice(names):
    return {name for name, count in Counter(names).items() if count > 1}


def lines(node):
    return node.end_lineno - node.lineno + 1


def full_names(tree):
    """What a local name stands for: `np` for numpy, `load` for torch.load."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(node, names):
    if isinstance(node, ast.Attribute):
        head = dotted(node.value, names)
        return f"{head}.{node.attr}" if head else None
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else None


def unsafe(tree):
    """Everything that could run code out of a file, a configuration or a checkpoint."""
    found = [name for name in imports(tree) if name.partition(".")[0] in UNSAFE_MODULES]
    names = full_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node, names)) in UNSAFE_CALLS:
            found.append(name)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOADERS:
            told = {keyword.arg for keyword in node.keywords}
            found += [] if "trust_remote_code" in told else [f"{node.func.attr} without trust_remote_code=False"]
        elif isinstance(node, ast.keyword) and node.arg in UNSAFE_KEYWORDS:
            allowed = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if allowed else [node.arg]
    return found


FAMILY_FACTS = {"unit", "softmax_over", "passages"}
FAMILY_NAMES = set(FAMILIES)
# What a manifest may say of a family, and which files it is read from and written to, is a matter of its formats.
ASK_OF_FORMATS = {
    "mpt/data/manifest/family_specs.py",
    "mpt/data/manifest/format_specs.py",
    "mpt/data/formats/text_files.py",
    "mpt/serving/layout.py",
}


def family_branches(tree):
    """Every line that does one thing for a family and another for the next, instead of asking the family's object."""
    return sorted({node.lineno for test in decisions(tree) for node in ast.walk(test) if names_a_family(node)})


def decisions(tree):
    """What is compared, and what a branch, a table or a match is chosen by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield node
        elif isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            yield node.test
        elif isinstance(node, ast.comprehension):
            yield from node.ifs
        elif isinstance(node, ast.Subscript):
            yield node.slice
        elif isinstance(node, ast.Match):
            yield node.subject


def names_a_family(node):
    if isinstance(node, ast.Attribute):
        return node.attr in FAMILY_FACTS
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in FAMILY_NAMES


def broken(rule):
    """Every source file in which a rule finds something, and what."""
    found = {str(path.relative_to(ROOT)): rule(path) for path in SOURCES}
    return {path: problems for path, problems in found.items() if problems}


def parsed(path):
    return ast.parse(path.read_text())


def test_there_is_something_to_check():
    assert {"mpt.base.errors", "mpt.data.example", "mpt.data.families.metrics"} <= {
        module_name(path) for path in SOURCES
    }


def test_imports_point_downwards():
    assert broken(lambda path: upward_imports(module_name(path), parsed(path))) == {}


def test_modules_are_short():
    limits = {path: MAX_LINES[path.relative_to(ROOT).parts[0]] for path in SOURCES}
    assert broken(lambda path: max(0, len(path.read_text().splitlines()) - limits[path])) == {}


def test_functions_are_short():
    assert broken(lambda path: long_functions(parsed(path))) == {}


def test_classes_are_short():
    assert broken(lambda path: long_classes(parsed(path))) == {}


def test_folders_hold_few_modules():
    assert full_folders(path.relative_to(ROOT) for path in SOURCES) == set()


def test_no_two_classes_share_a_name():
    assert twice(class_names(parsed(path) for path in SOURCES)) == set()


def test_nothing_outside_of_the_states_asks_which_kind_a_part_is():
    found = broken(lambda path: branches_on_parts(parsed(path)))
    assert {path: asked for path, asked in found.items() if not path.startswith("mpt/model/state/")} == {}


def test_nothing_runs_code_from_data():
    assert broken(lambda path: unsafe(parsed(path))) == {}


def test_benchmarks_run_no_code_of_a_repository():
    found = {path.name: unsafe(parsed(path)) for path in (ROOT / "benchmarks").glob("*.py")}
    assert not {name: calls for name, calls in found.items() if any("trust_remote_code" in call for call in calls)}


def test_only_families_know_their_differences():
    own, allowed = ROOT / "mpt" / "data" / "families", {ROOT / name for name in ASK_OF_FORMATS}
    found = broken(lambda path: [] if own in path.parents or path in allowed else family_branches(parsed(path)))
    assert found == {}
    assert all(family_branches(parsed(path)) for path in allowed), "an exception that is none any more"


def test_source_is_ascii():
    assert broken(lambda path: not path.read_bytes().isascii()) == {}


def test_modules_are_named_after_what_they_hold():
    assert not {path.stem for path in SOURCES} & {"utils", "util", "helpers", "helper", "common", "misc"}


@pytest.mark.parametrize("module", LIGHT)
def test_commands_without_a_model_do_not_load_torch(module):
    code = f"import sys, {module}; print(*sorted({{'torch', 'transformers'}} & sys.modules.keys()))"
    paths = os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == ""


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("mpt.base.errors", "import mpt.data.example"),
        ("mpt.data.tags", "def f():\n    from mpt.model import bank"),
        ("mpt.model.state.bank", "from mpt import training"),
        ("mpt.training.loop", "from mpt.evaluation.metrics import score"),
        ("mpt.evaluation.report", "import mpt.cli as c"),
        ("mpt.cli", "import pipelines.transfer"),
        ("mpt.cli", "from quickstart import program"),
        ("mpt.data.tasks", "import examples.synthetic"),
    ],
)
def test_an_upward_import_would_be_found(module, code):
    assert upward_imports(module, ast.parse(code))


def test_an_upward_import_by_a_relative_path_is_refused():
    with pytest.raises(AssertionError, match="imports are absolute"):
        upward_imports("mpt.data.tags", ast.parse("from ..model import bank"))


def test_a_docstring_does_not_count_as_length():
    text = "\n" * MAX_FUNCTION_LINES
    assert long_functions(ast.parse(f'def f():\n  """{text}"""\n  return 1')) == []


def test_a_downward_import_is_fine():
    assert upward_imports("mpt.cli", ast.parse("import mpt\nfrom mpt.data import tags\nimport torch")) == []
    assert upward_imports("examples.quickstart", ast.parse("from mpt.cli import main\nimport synthetic")) == []


def test_a_long_function_would_be_found():
    body = "    x = 1\n" * MAX_FUNCTION_LINES
    assert long_functions(ast.parse(f"class A:\n  def f(self):\n{body}")) == [("f", MAX_FUNCTION_LINES + 1)]


def test_a_long_class_would_be_found():
    body = "    x = 1\n" * MAX_CLASS_LINES
    assert long_classes(ast.parse(f"class A:\n{body}")) == [("A", MAX_CLASS_LINES + 1)]
    assert long_classes(ast.parse("class A:\n    x = 1")) == []


def test_names_of_classes_that_meet_would_be_found():
    trees = [ast.parse(code) for code in ("class A: pass\nclass B: pass", "class C:\n  class A: pass", "A = 1")]
    assert twice(class_names(trees)) == {"A"} and twice(class_names(trees[:1])) == set()


def test_a_full_folder_would_be_found():
    paths = [Path("mpt/a") / f"m{number}.py" for number in range(MAX_MODULES)]
    assert full_folders([*paths, Path("mpt/b/m.py")]) == set()
    assert full_folders([*paths, Path("mpt/a/__init__.py")]) == {"mpt/a"}


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(part, Prompt)",
        "isinstance(part, (int, low_rank.LowRank))",
        "isinstance(part, prompt.Prompt | InputPrompt)",
        "issubclass(cls, Weights)",
        "part.kind == 'prompt'",
        "'weights' == part.kind",
        "part.kind != 'low_rank'",
        "part.kind in ('input', 'weights')",
        "kind == 'input'",
        "'prompt' in state.parts",
        "'low_rank' not in method.parts",
        "method.parts == ('prompt',)",
        "set(state.parts) == {'prompt', 'low_rank'}",
        "state.parts['prompt'].flat",
        "saved.state.parts.get('prompt')",
        "state.specs['prompt']",
        "match part:\n  case Prompt():\n    pass",
        "match part.kind:\n  case 'prompt' | 'input':\n    pass",
    ],
)
def test_a_branch_on_the_kind_of_a_part_would_be_found(code):
    assert branches_on_parts(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(part, Part)",
        "isinstance(layer, nn.Linear)",
        "name == 'prompt'",
        "identity['prompt']",
        "Method(parts=('prompt', 'low_rank'))",
        "for kind, part in state.parts.items(): part.spec",
        "part.meets and not part.shardable",
        "rates[group.rate]",
    ],
)
def test_what_asks_for_no_kind_is_fine(code):
    assert branches_on_parts(ast.parse(code)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch as t\nt.load(path)",
        "from torch import load as read\nread(path)",
        "import torch\nreader = torch.load",
        "from torch import hub\nhub.load(name)",
        "eval(text)",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module\nimport_module(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=settings.trust)",
        "AutoModel.from_pretrained(name)",
        "transformers.AutoConfig.from_pretrained(name, **options)",
        "AutoModel.from_config(config)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_unsafe_code_would_be_found(code):
    assert unsafe(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        'if task.spec.kind.unit == "words":\n    pass',
        'x = 1 if split.softmax_over != "labels" else 2',
        "noun = NOUNS[spec.kind.unit]",
        'if family in ("ner", "srl"):\n    pass',
        "rows = [a for a in them if a.passages is not None]",
        "if split.passages:\n    pass",
        "match kind.unit:\n    case _:\n        pass",
    ],
)
def test_a_branch_on_a_family_would_be_found(code):
    assert family_branches(ast.parse(code)) == [1]


def test_asking_the_family_is_fine():
    code = "found = family_of(task.spec).decode(scores, split, examples, labels)\nif spec.kind.windowed:\n    pass"
    assert family_branches(ast.parse(code + '\nsaid = f"scores {kind.unit}"')) == []


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "safetensors.torch.load(data)",
        "re.compile(x)",
        "load(name, trust_remote_code=False)",
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
    ],
)
def test_safe_code_is_fine(code):
    assert not unsafe(ast.parse(code))
