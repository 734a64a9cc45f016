"""The documentation names only files, code, config keys, commands and options that exist."""

import ast
import re
from argparse import _SubParsersAction
from importlib import import_module
from itertools import chain, product
from pathlib import Path

import pytest

from kgdet_d2.cli import COMMANDS
from kgdet_d2.config import load_config

ROOT = Path(__file__).parents[1]
PLACES = ("*.md", "docs/*.md", "datasets/*.md", "tests/**/*.md", ".github/*.md")
PAGES = sorted(page.relative_to(ROOT).as_posix() for place in PLACES for page in ROOT.glob(place))
SECTIONS = "DATALOADER|DATASETS|INPUT|MODEL|SOLVER|TEST"  # of the config


def read(page):
    return (ROOT / page).read_text()


def assert_none(problems):
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def cfg():
    return load_config(str(ROOT / "configs" / "kgdet_R50.yaml"), [])


def has_key(cfg, key):
    node = cfg
    for part in key.split("."):
        if part not in node:
            return False
        node = node[part]
    return True


# --- the table from the paper to the code ---


def rows_of_table():
    """Yield the code spans of each row's second column."""
    section = read("docs/DESIGN.md").split("## From the paper to the code")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        yield re.findall(r"`([^`]+)`", row.split("|")[2])


def defines(tree, name):
    """Return whether a module defines ``name``; of "Class.attribute" the class or a base in the same file."""
    top, _, attribute = name.partition(".")
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == top:
            if not attribute:
                return True
            return _has_attribute(node, attribute) or any(
                defines(tree, f"{base.id}.{attribute}") for base in node.bases if isinstance(base, ast.Name)
            )
    return False


def _has_attribute(class_node, attribute):
    for node in ast.walk(class_node):
        if isinstance(node, ast.FunctionDef) and node.name == attribute:
            return True
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        else:
            continue
        if any(getattr(target, "attr", getattr(target, "id", None)) == attribute for target in targets):
            return True
    return False


def test_the_table_from_the_paper_to_the_code(cfg):
    problems = []
    for spans in rows_of_table():
        path = None
        for span in spans:
            if "/" in span:
                path = ROOT / span if span.startswith("configs/") else ROOT / "kgdet_d2" / span
                problems += [] if path.is_file() else [f"no file {span}"]
            elif re.match(rf"({SECTIONS})\.", span):
                problems += [] if has_key(cfg, span) else [f"no config key {span}"]
            elif path.is_file() and not defines(ast.parse(path.read_text()), span):
                problems.append(f"{path.name} does not define {span}")
    assert_none(problems)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("A", True), ("f", True), ("B.x", True), ("B.y", True), ("A.y", False), ("B.z", True), ("g", False)],
)
def test_what_a_module_defines(name, expected):
    source = """
class A:
    z: int

    def __init__(self):
        self.x = 1

class B(A):
    def y(self): ...

def f(): ...
"""
    assert defines(ast.parse(source), name) is expected


# --- files and links ---


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", read(page), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    problems = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
            if not target.exists():
                problems.append(f"{page}: {link}: no such file")
            elif anchor and anchor not in anchors(target.relative_to(ROOT)):
                problems.append(f"{page}: {link}: no such heading")
    assert_none(problems)


def expanded(pattern):
    """Expand {a,b} as a shell does."""
    parts = re.split(r"\{([^{}]*,[^{}]*)\}", pattern)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def files_named(text):
    """Yield the project's files that a page names, as patterns relative to its root or to the package."""
    folders = r"configs|tools|docs|tests|benchmarks|kgdet_d2|\.github"
    begin = r"(?<![\w/.\-])"
    yield from re.findall(rf"{begin}(?:{folders})/[\w./*{{}},\-]*", text)
    yield from re.findall(rf"{begin}(?!(?:{folders})/)[a-z_]+/[\w/*]+\.py\b", text)
    yield from re.findall(rf"{begin}train_net\.py\b", text)


def exists(path):
    return any(any(folder.glob(path)) for folder in (ROOT, ROOT / "kgdet_d2"))


def test_files_exist():
    problems = []
    for page in PAGES:
        paths = [path for name in files_named(read(page)) for path in expanded(name.rstrip(".,"))]
        # A reader's own files begin with my_.
        problems += [f"{page}: no {path}" for path in paths if "/my_" not in path and not exists(path)]
    assert_none(problems)


# --- config keys and commands ---


def test_config_keys_exist(cfg):
    problems = []
    for page in PAGES:
        keys = re.findall(rf"\b(?:{SECTIONS})(?:\.[A-Z][A-Z0-9_]*)+\b", read(page))
        problems += [f"{page}: no config key {key}" for key in keys if not has_key(cfg, key)]
    assert_none(problems)


def commands_in(text):
    """Yield the ``kgdet`` command lines of code blocks and code spans as lists of words."""
    text = text.replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S))
    lines = blocks.splitlines() + re.findall(r"`([^`\n]+)`", text)
    for line in lines:
        words = line.split("#")[0].replace("kgdet --import my_module", "kgdet").split()
        if words[:1] == ["kgdet"] and len(words) > 1:
            yield words


def help_of(parser):
    """The help of a command and of the commands in it."""
    inner = [action.choices.values() for action in parser._actions if isinstance(action, _SubParsersAction)]
    return "\n".join([parser.format_help(), *(each.format_help() for each in chain.from_iterable(inner))])


def problems_of_command(name, words):
    if name not in COMMANDS:
        yield f"no command kgdet {name}"
        return
    options = help_of(import_module(COMMANDS[name].module).make_parser())
    for word in words:
        if word.startswith("--") and not re.search(rf"(?<![\w\-]){word}\b", options):
            yield f"kgdet {name} has no option {word}"
        for config in expanded(word) if word.endswith(".yaml") else []:
            if not any((folder / config).is_file() for folder in (ROOT, ROOT / "configs")):
                yield f"kgdet {name}: no config {config}"


def test_commands_exist_with_their_options_and_configs():
    problems, number = [], 0
    for page in PAGES:
        for _, name, *words in commands_in(read(page)):
            number += 1
            problems += [f"{page}: {problem}" for problem in problems_of_command(name, words)]
    assert number > 15
    assert_none(problems)


def test_benchmarks_exist():
    problems = []
    for page in PAGES:
        for name in re.findall(r"python -m benchmarks (\w+)", read(page)):
            if not (ROOT / "benchmarks" / f"{name}.py").is_file():
                problems.append(f"{page}: no benchmark {name}")
    assert_none(problems)


# --- numbers that stand in two places ---


def test_versions_agree():
    version = re.search(r'^version = "(.+)"', read("pyproject.toml"), re.M)[1]
    assert re.search(r"^version: (.+)$", read("CITATION.cff"), re.M)[1] == version
    assert f"## [{version}]" in read("CHANGELOG.md")
    ruff = re.search(r"^ruff==(.+)$", read("constraints.txt"), re.M)[1]
    assert f"rev: v{ruff}\n" in read(".pre-commit-config.yaml")
