"""Who may import whom, read from the sources."""

import ast
from pathlib import Path

import pytest

PACKAGE = "kgdet_d2"
ALLOWED = {
    "schema": {"schema"},
    "utils": {"utils", "schema"},
    "geometry": {"geometry"},
    "layers": {"layers", "geometry"},
    "structures": {"structures", "schema", "utils"},
    "modeling": {"modeling", "layers", "geometry", "schema"},
    "data": {"data", "structures", "schema", "geometry", "utils"},
    "evaluation": {"evaluation", "structures", "schema", "geometry", "utils"},
    "synthetic": {"synthetic", "schema"},
    "checkpoint": {"checkpoint", "modeling", "schema", "utils"},
}
NEVER = {"train_net", "tools", "datasets", "tests"}
THIRD_PARTY = {"schema": {"numpy"}, "geometry": {"torch"}}
STANDARD = {"collections", "dataclasses", "functools", "itertools", "math", "typing"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", sorted(Path(PACKAGE).rglob("*.py")), ids=str)
def test_imports_keep_to_the_layers(path):
    part = path.relative_to(PACKAGE).parts[0]
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in NEVER, f"{path} imports {name}"
        if part in ALLOWED and top == PACKAGE:
            assert rest and rest[0] in ALLOWED[part], f"{path}: {part} may not import {name}"
        if part in THIRD_PARTY and top != PACKAGE:
            assert top in THIRD_PARTY[part] | STANDARD, f"{path}: {part} may not import {name}"
