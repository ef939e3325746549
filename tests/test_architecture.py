"""The rules of docs/architecture.md, checked on the source text: nothing of the package is imported here."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 300
MOST_PUBLIC_NAMES = 18
FORBIDDEN_NAMES = {"utils", "common", "helpers", "core", "misc"}
LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning"}
MAY_IMPORT_LIGHTNING = ("training", "models", "cli")

# file → why it may be longer; a file that has become short enough must leave this list
LONG_FILES: dict[str, str] = {}
# public name → why its docstring needs no Example; a name that has got one must leave this list
WITHOUT_EXAMPLE = {"Method": "it is abstract; docs/architecture.md writes a method, and tests/test_readme.py runs it"}


@dataclass(frozen=True)
class Import:
    """One imported module or name, with where the import stands.

    Attributes:
        module: what is imported: a module of the package where there is one of that name, else as written.
        name: the name taken from it, or None.
        is_late: whether it is inside a function, so that it runs only when that is called.
    """

    module: str
    name: str | None
    is_late: bool


class Package:
    """The modules of a package and what they import, read from their source."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.files: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.py")):
            parts = [self.name, *path.relative_to(folder).with_suffix("").parts]
            self.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        self.trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in self.files.items()}
        self.imports = {name: list(self._imports(name, [tree], is_late=False)) for name, tree in self.trees.items()}

    def short(self, module: str) -> str:
        """Name within the package; the package's own ``__init__`` has the name of the package."""
        return module.removeprefix(f"{self.name}.")

    def _imports(self, module: str, nodes: list[ast.AST], *, is_late: bool) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, None, is_late) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = self._source(module, node)
                for alias in node.names:
                    whole = f"{source}.{alias.name}"
                    yield Import(whole, None, is_late) if whole in self.files else Import(source, alias.name, is_late)
            elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                yield from self._imports(module, [*node.orelse], is_late=is_late)
            else:
                is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from self._imports(module, [*ast.iter_child_nodes(node)], is_late=is_late or is_function)

    def _source(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_folder = self.files[module].name == "__init__.py"
        parts = module.split(".")
        parents = parts[: len(parts) - node.level + is_folder]
        return ".".join([*parents, *([node.module] if node.module else [])])


def read_rows(text: str) -> list[list[str]]:
    """The rows of the table of ranks, the highest first: the modules and folders in each."""
    table = text.split("<!-- ranks -->")[1].split("<!-- /ranks -->")[0]
    lines = [line for line in table.splitlines() if re.match(r"\| \d", line)]
    return [re.findall(r"`([a-z0-9_.]+)`", line.split("|")[2]) for line in lines]


def place(short: str, rows: list[list[str]]) -> tuple[int, str] | None:
    """Rank (0 is the lowest row) and entry of a module: the entry that is the module itself or its closest folder."""
    found = [
        (len(rows) - 1 - number, entry)
        for number, row in enumerate(rows)
        for entry in row
        if short == entry or short.startswith(f"{entry}.")
    ]
    return max(found, key=lambda rank_and_entry: len(rank_and_entry[1]), default=None)


def wrong_ranks(package: Package, rows: list[list[str]]) -> list[str]:
    """Imports that do not point to a lower row, and modules that have no row."""
    faults = []
    for module, imports in package.imports.items():
        own = place(package.short(module), rows)
        if own is None:
            faults.append(f"{module} has no row in the table")
            continue
        for found in imports:
            other = place(package.short(found.module), rows) if found.module in package.files else None
            if other is None or (found.is_late and package.short(module) == "cli"):
                continue
            if other[0] >= own[0] and other[1] != own[1]:
                faults.append(f"{module} imports {found.module}, which is not in a lower row")
    return faults


def cycles(package: Package) -> list[str]:
    """Circles of imports that run when the modules are loaded."""
    graph = {
        module: {found.module for found in imports if found.module in package.files and not found.is_late}
        for module, imports in package.imports.items()
    }
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" → ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for other in sorted(graph[module]):
                visit(other, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def long_files(package: Package) -> dict[str, int]:
    """Files with more lines than allowed: path → lines."""
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in package.files.values()}
    folder = package.files[package.name].parents[1]
    return {path.relative_to(folder).as_posix(): count for path, count in counts.items() if count > MOST_LINES}


def forbidden_names(package: Package) -> list[str]:
    """Modules named after nothing in particular."""
    return [module for module in package.files if FORBIDDEN_NAMES & set(module.split("."))]


def importers_of_lightning(package: Package) -> list[str]:
    """Modules that import Lightning though it is not theirs to know, late imports included."""
    return [
        module
        for module, imports in package.imports.items()
        if any(found.module.split(".")[0] in LIGHTNING for found in imports)
        and package.short(module).split(".")[0] not in MAY_IMPORT_LIGHTNING
    ]


def foreign_imports(package: Package, short: str, allowed: set[str]) -> list[str]:
    """What a module imports beyond the standard library and the packages allowed."""
    tops = {found.module.split(".")[0] for found in package.imports[f"{package.name}.{short}"]}
    return sorted(tops - allowed - set(sys.stdlib_module_names))


def public_names(package: Package) -> list[str]:
    """``__all__`` of the package."""
    for node in package.trees[package.name].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise AssertionError(f"{package.name} has no __all__")


def definition(package: Package, name: str, module: str) -> ast.stmt:
    """The statement that defines a name, followed through the imports of the package."""
    for node in package.trees[module].body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node
        if isinstance(node, ast.Assign) and name in [ast.unparse(target) for target in node.targets]:
            return node
    # through the source, not `package.imports`: a name that is imported late stands under TYPE_CHECKING
    imports = [node for node in ast.walk(package.trees[module]) if isinstance(node, ast.ImportFrom)]
    source = next(node.module for node in imports if name in [alias.name for alias in node.names])
    return definition(package, name, str(source))


def names_without_example(package: Package) -> list[str]:
    """Public classes and functions whose docstring has no example that runs."""
    nodes = {name: definition(package, name, package.name) for name in public_names(package)}
    return [
        name
        for name, node in nodes.items()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not re.search(r"Example:\n\s+>>> ", ast.get_docstring(node) or "")
    ]


@pytest.fixture(scope="module")
def package() -> Package:
    return Package(ROOT / "l0rnn")


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    return read_rows((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


class TestPackage:
    def test_a_module_imports_only_from_lower_rows(self, package: Package, rows: list[list[str]]) -> None:
        assert len(package.files) > 30
        assert wrong_ranks(package, rows) == []

    def test_the_table_names_nothing_that_is_not_there(self, package: Package, rows: list[list[str]]) -> None:
        shorts = {package.short(module) for module in package.files}
        assert [entry for row in rows for entry in row if entry not in shorts] == []

    def test_there_are_no_cycles(self, package: Package) -> None:
        assert cycles(package) == []

    def test_files_are_short(self, package: Package) -> None:
        long = long_files(package)
        assert sorted(long.keys() - LONG_FILES.keys()) == []
        assert sorted(LONG_FILES.keys() - long.keys()) == [], "short enough now: remove it from LONG_FILES"

    def test_files_are_named_after_an_idea(self, package: Package) -> None:
        assert forbidden_names(package) == []

    def test_lightning_is_known_to_training_models_and_the_command_line_alone(self, package: Package) -> None:
        assert importers_of_lightning(package) == []

    def test_the_distribution_needs_torch_alone(self, package: Package) -> None:
        assert foreign_imports(package, "hard_concrete", {"torch"}) == []

    def test_there_are_few_public_names(self, package: Package) -> None:
        names = public_names(package)
        assert len(names) <= MOST_PUBLIC_NAMES
        assert len(set(names)) == len(names)

    def test_public_names_have_an_example(self, package: Package) -> None:
        assert names_without_example(package) == sorted(WITHOUT_EXAMPLE)


MADE_UP = {
    "__init__.py": """
        from made_up.bottom import good, bad, LIMIT
        __all__ = ["LIMIT", "bad", "good"]
        """,
    "bottom.py": '''
        from __future__ import annotations
        from typing import TYPE_CHECKING
        import numpy
        if TYPE_CHECKING:
            from made_up.top import Top
        else:
            from made_up.folder import one
        LIMIT = 3
        def good():
            """Good.

            Example:
                >>> good()
            """
            import made_up.top
        def bad():
            """Bad."""
        ''',
    "folder/__init__.py": "",
    "folder/one.py": "from . import two\nfrom ..cli import main",
    "folder/two.py": "from made_up.folder import one\nimport lightning.pytorch as pl",
    "top.py": "from made_up import bottom\nx = 0\n" * 151,
    "cli.py": "def main():\n    import made_up.top\n    from lightning import Trainer",
    "helpers/__init__.py": "",
}
MADE_UP_ROWS = """
| 9 | `top` | before the table |
<!-- ranks -->
| row | modules | |
|---|---|---|
| 1 | `made_up` | `top` |
| 2 | `top` | |
| 3 | `cli`, `folder` | |
| 4 | `bottom` | |
<!-- /ranks -->
"""


@pytest.fixture
def made_up(tmp_path: Path) -> Package:
    for name, text in MADE_UP.items():
        path = tmp_path / "made_up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
        path.write_text("\n".join(line[indent:] for line in lines))
    return Package(tmp_path / "made_up")


class TestTheChecksThemselves:
    """Each rule is broken once in a made-up package, and found."""

    def test_imports_that_point_up(self, made_up: Package) -> None:
        assert wrong_ranks(made_up, read_rows(MADE_UP_ROWS)) == [
            "made_up.bottom imports made_up.folder.one, which is not in a lower row",
            "made_up.bottom imports made_up.top, which is not in a lower row",
            "made_up.folder.one imports made_up.cli, which is not in a lower row",
            "made_up.helpers has no row in the table",
        ]

    def test_the_closest_entry_counts(self) -> None:
        rows = [["folder.one"], ["folder", "top"], ["folder.one.deep"]]
        assert place("folder.one", rows) == (2, "folder.one")
        assert place("folder.one.deep", rows) == (0, "folder.one.deep")
        assert place("folder.two", rows) == (1, "folder")
        assert place("folders", rows) is None

    def test_cycles(self, made_up: Package) -> None:
        assert cycles(made_up) == ["made_up.folder.one → made_up.folder.two → made_up.folder.one"]

    def test_files(self, made_up: Package) -> None:
        assert long_files(made_up) == {"made_up/top.py": 302}
        assert forbidden_names(made_up) == ["made_up.helpers"]

    def test_foreign_packages(self, made_up: Package) -> None:
        assert importers_of_lightning(made_up) == ["made_up.folder.two"]
        assert foreign_imports(made_up, "bottom", {"made_up"}) == ["numpy"]

    def test_names(self, made_up: Package) -> None:
        assert public_names(made_up) == ["LIMIT", "bad", "good"]
        assert names_without_example(made_up) == ["bad"]
