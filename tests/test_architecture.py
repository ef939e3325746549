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
MOST_LINES = 500
FEWEST_LINES = 60
MOST_PUBLIC_NAMES = 19
FORBIDDEN_NAMES = {"utils", "common", "helpers", "core", "misc"}
LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning"}
MAY_IMPORT_LIGHTNING = ("training", "models", "cli")

# file → why it may be longer; a file that has become short enough must leave this list
LONG_FILES: dict[str, str] = {}
# file → why so little that one other file alone uses is a file; one that has grown, or has other users, must leave this
SMALL_FILES: dict[str, str] = {
    "l0rnn/models/g2p.py": "it needs NumPy alone, so that it can be copied beside weights",
    "l0rnn/methods/dense.py": "each method is a file, and this one does nothing",
}
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
        # a stub lists what a folder's __init__ imports when it is asked for
        stubs = {name for name, path in self.files.items() if path.with_suffix(".pyi").exists()}
        sources = {name: path.with_suffix(".pyi") if name in stubs else path for name, path in self.files.items()}
        self.trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in sources.items()}
        self.imports = {
            name: list(self._imports(name, [tree], is_late=name in stubs)) for name, tree in self.trees.items()
        }

    def short(self, module: str) -> str:
        """Name within the package; the package's own ``__init__`` has the name of the package."""
        return module.removeprefix(f"{self.name}.")

    def _imports(self, module: str, nodes: list[ast.AST], *, is_late: bool) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, None, is_late) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = self.source(module, node)
                for alias in node.names:
                    whole = f"{source}.{alias.name}"
                    yield Import(whole, None, is_late) if whole in self.files else Import(source, alias.name, is_late)
            elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                yield from self._imports(module, [*node.orelse], is_late=is_late)
            else:
                is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from self._imports(module, [*ast.iter_child_nodes(node)], is_late=is_late or is_function)

    def source(self, module: str, node: ast.ImportFrom) -> str:
        """The module that a statement imports from, written as it may be with dots."""
        if not node.level:
            return node.module or ""
        is_folder = self.files[module].name == "__init__.py"
        parts = module.split(".")
        parents = parts[: len(parts) - node.level + is_folder]
        return ".".join([*parents, *([node.module] if node.module else [])])


def read_order(text: str) -> list[list[str]]:
    """The line of order, from the top down: the units of each place, which are folders and files of the package."""
    line = text.split("<!-- order -->")[1].split("<!-- /order -->")[0]
    return [re.findall(r"[a-z0-9_]+", place) for place in line.split("→")]


def unit_of(package: Package, module: str) -> str:
    """The folder of the package in which a module lies, or the module itself where it lies at the top."""
    return package.short(module).split(".")[0]


def wrong_imports(package: Package, order: list[list[str]]) -> list[str]:
    """Imports between folders that do not follow the order, and modules that are in none of its places."""
    places = {unit: place for place, units in enumerate(order) for unit in units}
    faults = []
    for module, imports in package.imports.items():
        own = unit_of(package, module)
        if own not in places:
            faults.append(f"{module} has no place in the order")
            continue
        for found in imports:
            other = unit_of(package, found.module)
            if found.module not in package.files or other == own or (found.is_late and own == "cli"):
                continue
            if places.get(other, -1) <= places[own]:
                faults.append(f"{module} imports {found.module}, which does not come after it")
    return faults


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Circles in a graph: node → the nodes that it leads to."""
    found: list[str] = []
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            found.append(" → ".join([*path[path.index(node) :], node]))
        elif node not in done:
            for other in sorted(graph[node]):
                visit(other, [*path, node])
            done.add(node)

    for node in graph:
        visit(node, [])
    return found


def circles_of_files(package: Package) -> list[str]:
    """Circles of imports that run when the modules are loaded."""
    return circles(
        {
            module: {found.module for found in imports if found.module in package.files and not found.is_late}
            for module, imports in package.imports.items()
        }
    )


def circles_of_folders(package: Package) -> list[str]:
    """Circles of folders whose files import one another, late imports included; the top counts file by file."""
    top = package.files[package.name].parent
    folders = {
        module: package.short(module) if path.parent == top else path.parent.relative_to(top).as_posix()
        for module, path in package.files.items()
    }
    graph: dict[str, set[str]] = {folder: set() for folder in folders.values()}
    for module, imports in package.imports.items():
        for found in imports:
            if found.module in package.files and not (found.is_late and folders[module] == "cli"):
                graph[folders[module]] |= {folders[found.module]} - {folders[module]}
    return circles(graph)


def _lines(package: Package) -> dict[str, int]:
    """Lines of each module."""
    return {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in package.files.items()}


def _path(package: Package, module: str) -> str:
    return package.files[module].relative_to(package.files[package.name].parents[1]).as_posix()


def long_files(package: Package) -> list[str]:
    """Files with more lines than one reads in a sitting."""
    return [_path(package, module) for module, count in _lines(package).items() if count > MOST_LINES]


def small_files(package: Package) -> list[str]:
    """Files with few lines that one other file alone imports, which could hold them; a re-export is no use."""
    users: dict[str, set[str]] = {module: set() for module in package.files}
    for module, imports in package.imports.items():
        for found in imports:
            if found.module in users and module != found.module.rpartition(".")[0]:
                users[found.module].add(module)
    few = [
        module
        for module, count in _lines(package).items()
        if count < FEWEST_LINES and package.files[module].name != "__init__.py"
    ]
    return [_path(package, module) for module in few if len(users[module]) == 1]


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
    """What the stub of the package lists."""
    imports = [node for node in package.trees[package.name].body if isinstance(node, ast.ImportFrom)]
    return [alias.name for node in imports for alias in node.names]


def definition(package: Package, name: str, module: str) -> ast.stmt:
    """The statement that defines a name, followed through the imports of the package."""
    if f"{module}.{name}" in package.files:  # a folder that can be called as the function of its name
        return definition(package, name, f"{module}.{name}")
    for node in ast.walk(package.trees[module]):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return definition(package, name, package.source(module, node))
    for node in package.trees[module].body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node
        if isinstance(node, ast.Assign) and name in [ast.unparse(target) for target in node.targets]:
            return node
    raise AssertionError(f"{module} does not define {name}")


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
def order() -> list[list[str]]:
    return read_order((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


class TestPackage:
    def test_imports_between_folders_follow_the_order(self, package: Package, order: list[list[str]]) -> None:
        assert len(package.files) > 30
        assert wrong_imports(package, order) == []

    def test_the_order_names_nothing_that_is_not_there(self, package: Package, order: list[list[str]]) -> None:
        units = {unit_of(package, module) for module in package.files}
        named = [unit for place in order for unit in place]
        assert sorted(named) == sorted(units)

    def test_each_folder_has_its_line_in_the_list(self, package: Package) -> None:
        page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        listed = re.findall(r"^\| \[([a-z_/]+)/\]\(", page, flags=re.MULTILINE)
        top = package.files[package.name].parent
        folders = {path.parent.relative_to(top).as_posix() for path in package.files.values()} - {"."}
        assert sorted(listed) == sorted(folders)

    def test_there_are_no_circles(self, package: Package) -> None:
        assert circles_of_files(package) == []
        assert circles_of_folders(package) == []

    def test_a_file_holds_one_idea_and_all_of_it(self, package: Package) -> None:
        for files, reasons in ((long_files(package), LONG_FILES), (small_files(package), SMALL_FILES)):
            assert sorted(set(files) - reasons.keys()) == [], "say why, or cut it in two, or put it where it is used"
            assert sorted(reasons.keys() - set(files)) == [], "it needs no reason any more: remove it from the list"

    def test_files_are_named_after_an_idea(self, package: Package) -> None:
        assert forbidden_names(package) == []

    def test_lightning_is_known_to_training_models_and_the_command_line_alone(self, package: Package) -> None:
        assert importers_of_lightning(package) == []

    def test_the_distribution_needs_torch_alone(self, package: Package) -> None:
        assert foreign_imports(package, "gates.hard_concrete", {"torch"}) == []

    def test_there_are_few_public_names(self, package: Package) -> None:
        names = public_names(package)
        assert len(names) <= MOST_PUBLIC_NAMES
        assert len(set(names)) == len(names)

    def test_public_names_have_an_example(self, package: Package) -> None:
        assert names_without_example(package) == sorted(WITHOUT_EXAMPLE)


MADE_UP = {
    "__init__.py": "",
    "__init__.pyi": "from .bottom import LIMIT, bad, good",
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
    "top.py": "from made_up import bottom\nx = 0\n" * 251,
    "cli.py": "def main():\n    import made_up.top\n    from lightning import Trainer",
    "helpers/__init__.py": "",
}
MADE_UP_ORDER = """
a → b
<!-- order -->
`made_up`, `top` → `cli`
→ `folder` → `bottom`
<!-- /order -->
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
        assert wrong_imports(made_up, read_order(MADE_UP_ORDER)) == [
            "made_up.bottom imports made_up.folder.one, which does not come after it",
            "made_up.bottom imports made_up.top, which does not come after it",
            "made_up.folder.one imports made_up.cli, which does not come after it",
            "made_up.helpers has no place in the order",
        ]

    def test_circles(self, made_up: Package) -> None:
        assert circles_of_files(made_up) == ["made_up.folder.one → made_up.folder.two → made_up.folder.one"]
        assert circles_of_folders(made_up) == ["bottom → top → bottom"]

    def test_files(self, made_up: Package) -> None:
        assert long_files(made_up) == ["made_up/top.py"]
        assert small_files(made_up) == ["made_up/bottom.py", "made_up/cli.py", "made_up/folder/two.py"]
        assert forbidden_names(made_up) == ["made_up.helpers"]

    def test_foreign_packages(self, made_up: Package) -> None:
        assert importers_of_lightning(made_up) == ["made_up.folder.two"]
        assert foreign_imports(made_up, "bottom", {"made_up"}) == ["numpy"]

    def test_names(self, made_up: Package) -> None:
        assert public_names(made_up) == ["LIMIT", "bad", "good"]
        assert names_without_example(made_up) == ["bad"]
