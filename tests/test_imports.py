"""Who may import whom, read from the sources."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "kgdet_d2"

# What a part may import of the package beside itself; a part is a folder or a module of the package. Each row
# names only parts above it.
MAY_IMPORT = {
    "schema": set(),
    "utils": {"schema"},
    "geometry": set(),
    "layers": {"geometry"},
    "structures": {"schema", "utils"},
    "config_files": set(),
    "config_checks": {"schema", "utils"},
    "config": {"config_checks", "config_files", "schema", "utils"},
    "modeling": {"layers", "geometry", "schema", "utils"},
    "data": {"structures", "geometry", "schema", "utils"},
    "evaluation": {"structures", "geometry", "schema", "utils"},
    "synthetic": {"schema", "utils"},
    "checkpoint": {"modeling", "config", "schema", "utils"},
    "visualizer": {"structures", "schema", "utils"},
    "figure_page": {"visualizer", "structures", "schema", "utils"},
    "garments": {"visualizer", "data", "structures", "schema", "utils"},
    "export": {"modeling", "layers", "geometry", "schema", "utils"},
    "predictor": {
        "export",
        "garments",
        "checkpoint",
        "modeling",
        "synthetic",
        "data",
        "config",
        "schema",
        "utils",
    },
    "complexity": {"modeling", "layers", "config", "geometry", "schema", "utils"},
    "install_detectron2": {"utils"},
    "__init__": {"predictor", "garments", "config", "utils"},
}
MAY_IMPORT["engine"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT["__main__"] = {"cli"}
# The package imports these as a whole, for what they register; it takes nothing from them.
REGISTERING = {"__init__": {f"{PACKAGE}.data", f"{PACKAGE}.modeling"}}
NEVER = {"train_net", "tools", "datasets", "benchmarks", "tests"}
THIRD_PARTY = {"schema": {"numpy", "yaml"}, "geometry": {"torch"}}
NETWORKS = {"modeling", "layers", "checkpoint", "export", "engine"}


def names_imported(path):
    """Yield the dotted name of all that a file imports, anywhere in it; "a.b" for ``from a import b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(name):
    """The part of the package that an import's dotted name lies in."""
    _, *rest = name.split(".")
    return rest[0] if rest and rest[0] in MAY_IMPORT else "__init__"


def offences_of(path, part):
    for name in names_imported(path):
        top = name.split(".")[0]
        if name in REGISTERING.get(part, ()):
            continue
        if not top:
            yield f"relative import {name}"
        elif top in NEVER:
            yield f"the package may not import {name}"
        elif top == PACKAGE:
            if part_of(name) not in {part, *MAY_IMPORT[part]}:
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
    above = set()
    for part, allowed in MAY_IMPORT.items():
        assert allowed <= above, f"{part} may import {sorted(allowed - above)}, which is not above it"
        above.add(part)


def test_reading_a_config_builds_on_no_network():
    reached, to_follow = set(), ["config", "config_checks"]
    while to_follow:
        part = to_follow.pop()
        if part not in reached:
            reached.add(part)
            to_follow += MAY_IMPORT[part]
    assert not reached & NETWORKS


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
