"""The imports of the product against the picture in docs/contributing.md: floors, no circles, no arrow upwards."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import write_batcher

REPOSITORY = Path(__file__).parents[2]
PACKAGE = "write_batcher"
PRODUCT = ("activities", "bench", "cli", "compare", "queue", "sinks", "workers", "workflows")

OPEN_TO_COMPARE = (PACKAGE, f"{PACKAGE}.config", f"{PACKAGE}.workers.embedded", f"{PACKAGE}.compare")


def files() -> list[Path]:
    inside = [file for room in PRODUCT for file in (REPOSITORY / room).rglob("*.py")]
    return sorted([*REPOSITORY.glob("*.py"), *inside])


def module_of(file: Path) -> str:
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join((PACKAGE, *parts)).removesuffix(".__init__")


MODULES = {module_of(file): file for file in files()}
DEFINED_IN = {f"{PACKAGE}.{name}": f"{PACKAGE}.{module}" for name, module in write_batcher._MODULES.items()}


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of the product that this one imports, anywhere in its file: those of a type checker too."""
    return frozenset(DEFINED_IN.get(name, name) for name in imported_names(module))


def imported_names(module: str) -> frozenset[str]:
    """The modules of the product that this one names, and the public names that it takes from the root."""
    return frozenset(_imports(ast.parse(MODULES[module].read_text("utf-8"))))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(name)) if name.split(".")[0] == PACKAGE:
                for alias in node.names:
                    inner = f"{name}.{alias.name}"
                    yield inner if inner in MODULES or inner in DEFINED_IN else name
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.split(".")[0] == PACKAGE)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if f"{name}.{attribute}" in DEFINED_IN:
                yield f"{name}.{attribute}"


def floors() -> list[frozenset[str]]:
    """The rooms of the picture by their paths, the highest floor first."""
    text = (REPOSITORY / "docs/contributing.md").read_text("utf-8")
    picture = text.partition("```mermaid\n")[2].partition("```")[0]
    paths = dict(re.findall(r'(\w+)\["([\w/.]+)"\]', picture))
    arrows = [line.split("-->") for line in picture.splitlines() if "-->" in line]
    above = [names(left) for left, _right in arrows]
    assert above[1:] == [names(right) for _left, right in arrows[:-1]], "each floor must stand on the one below it"
    return [frozenset(paths[name] for name in floor) for floor in (*above, names(arrows[-1][1]))]


def names(side: str) -> list[str]:
    return [re.match(r"\s*(\w+)", node)[1] for node in side.split("&")]  # type: ignore[index] # a node has a name


def room_of(module: str) -> str:
    """The most specific room of the picture."""
    path = module.removeprefix(PACKAGE).lstrip(".").replace(".", "/")
    rooms = [room for floor in floors() for room in floor]
    inside = [room for room in rooms if f"{path}/".startswith(room) or f"{path}.py" == room]
    return max(inside, key=len, default="")


FLOOR_OF = {room: number for number, floor in enumerate(floors()) for room in floor}
INSIDE = [module for module in MODULES if module != PACKAGE]


def test_every_module_stands_in_a_room_of_the_picture() -> None:
    assert [module for module in INSIDE if not room_of(module)] == []


def test_modules_import_only_from_lower_floors() -> None:
    upwards = [
        f"{module} imports {other}"
        for module in INSIDE
        for other in imports(module) - {PACKAGE}
        if room_of(other) != room_of(module) and FLOOR_OF[room_of(other)] <= FLOOR_OF[room_of(module)]
    ]
    assert upwards == []


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in imports(module):
                visit(other, (*path, module))
            done.add(module)

    for module in INSIDE:
        visit(module, ())


def test_comparison_uses_public_names_and_embedded_servers_only() -> None:
    private = [
        f"{module} imports {other}"
        for module in INSIDE
        if module.startswith(f"{PACKAGE}.compare")
        for other in imported_names(module) - DEFINED_IN.keys()
        if other not in OPEN_TO_COMPARE and not other.startswith(tuple(f"{room}." for room in OPEN_TO_COMPARE[2:]))
    ]
    assert private == []


@pytest.mark.parametrize(
    "program", ["from write_batcher import BatchedWrites", "import write_batcher\nwrite_batcher.BatchedWrites"]
)
def test_public_name_of_the_root_counts_as_an_import_of_its_module(program: str) -> None:
    names = {DEFINED_IN.get(name, name) for name in _imports(ast.parse(program))}
    assert "write_batcher.workflows.batched_writes" in names


def test_no_two_modules_have_the_same_name() -> None:
    by_name: dict[str, list[str]] = {}
    for module, file in MODULES.items():
        if file.name != "__init__.py":
            by_name.setdefault(file.stem, []).append(module)
    assert [modules for modules in by_name.values() if len(modules) > 1] == []


def test_every_package_is_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    folders = {str(file.parent.relative_to(REPOSITORY)).replace("/", ".").removeprefix(".") for file in files()}
    packages = {f"{PACKAGE}.{folder}".removesuffix(".") for folder in folders}
    assert set(project["tool"]["setuptools"]["packages"]) == packages


def test_public_names_are_loaded_as_type_checkers_see_them() -> None:
    tree = ast.parse((REPOSITORY / "__init__.py").read_text("utf-8"))
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE)
        for alias in node.names
    }
    assert sorted([*seen, "__version__"]) == sorted(write_batcher.__all__)
    assert seen == {name: f"{PACKAGE}.{module}" for name, module in write_batcher._MODULES.items()}
    for name, module in seen.items():
        assert getattr(write_batcher, name) is getattr(import_module(module), name)


def test_misspelt_public_name_is_answered_with_close_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'BatchedWrite': did you mean 'BatchedWrites'"):
        getattr(write_batcher, "BatchedWrite")  # noqa: B009 - a type checker refuses the plain attribute
    assert not hasattr(write_batcher, "nothing_like_it")
