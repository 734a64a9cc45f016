"""Who may import whom, read from the sources."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "kgdet_d2"

# What a part may import of the package beside itself; a part is a folder or a module of the package.
FLOORS = {
    "schema": set(),
    "utils": {"schema"},
    "geometry": set(),
    "layers": {"geometry"},
    "structures": {"schema", "utils"},
    "config_checks": {"schema"},
    "config_files": set(),
    "config": {"config_checks", "config_files", "schema", "utils"},
    "modeling": {"layers", "geometry", "schema"},
    "data": {"structures", "schema", "geometry", "utils"},
    "evaluation": {"structures", "schema", "geometry", "utils"},
    "synthetic": {"schema"},
    "checkpoint": {"config", "modeling", "schema", "utils"},
    "visualizer": {"structures", "schema", "utils"},
    "figure_page": {"visualizer", "structures", "schema", "utils"},
    "install_detectron2": {"utils"},
    "complexity": {"config", "modeling", "layers", "geometry", "schema", "utils"},
}
# These may import every floor and those named; any other part, a new one for instance, is an offence.
HOUSE = FLOORS.keys()
ABOVE = {
    "engine": HOUSE,
    "cli": HOUSE | {"engine", "__version__"},
    "__init__": HOUSE,
}
MAY_IMPORT = FLOORS | ABOVE
NEVER = {"train_net", "tools", "datasets", "benchmarks", "tests"}
THIRD_PARTY = {"schema": {"numpy"}, "geometry": {"torch"}}
NETWORKS = {"modeling", "layers", "checkpoint", "engine"}


def names_imported(path):
    """Yield the dotted name of every import of a file, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level > 0:
                yield "." * node.level + (node.module or "")
            elif node.module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def offences_of(path, part):
    for name in names_imported(path):
        top, _, rest = name.partition(".")
        if not top:
            yield f"relative import {name}"
        elif top in NEVER:
            yield f"the package may not import {name}"
        elif top == PACKAGE:
            imported = rest.split(".")[0]
            if imported != part and imported not in MAY_IMPORT[part]:
                yield f"{part} may not import {name}"
        elif part in THIRD_PARTY and top not in THIRD_PARTY[part] | sys.stdlib_module_names:
            yield f"{part} may not import {name}"


def package_files():
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    assert len(files) > 50
    return [(path, path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")) for path in files]


def test_imports_keep_to_the_layers():
    offences = []
    for path, part in package_files():
        if part in MAY_IMPORT:
            offences += [f"{path.relative_to(ROOT)}: {offence}" for offence in offences_of(path, part)]
        else:
            offences.append(f"{path.relative_to(ROOT)}: no floor is named for {part}")
    assert not offences, "\n".join(offences)


def test_the_floors_have_no_circle():
    below = {}
    for part, allowed in MAY_IMPORT.items():
        assert allowed <= below.keys() | {"__init__", "__version__"}, (
            f"{part} may import what stands above it or beside it"
        )
        below[part] = allowed


def test_reading_a_config_builds_on_no_network():
    """Follow the imports from config and config_checks; __init__ is left out: it imports nothing at once."""
    below = {part: set() for _, part in package_files()}
    for path, part in package_files():
        below[part] |= {name.split(".")[1] for name in names_imported(path) if name.startswith(f"{PACKAGE}.")}
    reached, to_follow = set(), ["config", "config_checks"]
    while to_follow:
        part = to_follow.pop()
        if part not in reached:
            reached.add(part)
            to_follow += below[part]
    assert not reached & NETWORKS, f"config rests on {sorted(reached & NETWORKS)}"


def test_no_file_imports_a_test_file():
    folders = [ROOT / name for name in (PACKAGE, "tests", "tools", "datasets", "benchmarks")]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    assert len(files) > 100
    offences = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in names_imported(path)
        if any(part.startswith("test_") for part in name.split("."))
    ]
    assert not offences, "\n".join(offences)
