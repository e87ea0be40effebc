"""The rooms of the package, which are what lies directly in it, and the imports between them, as the source has them.

``python tests/house.py`` prints rooms, floors and upward imports. Imports for type checkers and within functions count
like all others; what is loaded by a name made at run time, as ``native.dispatch`` loads kernels, is not seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# From the ground up: a room imports only from rooms before it.
ORDER = (
    "_version", "errors", "progress", "pixels", "rounding", "files", "distributed", "native",
    "ops", "kernels", "doctor", "losses", "recipes", "data", "audit",
    "rules", "nn", "bounds", "graph", "rounding_error", "net", "models", "keras_weights", "export", "serve",
    "evaluate", "certificate_file", "train", "reproduce", "report", "cli", "__main__", "__init__",
)  # fmt: skip


@dataclass(frozen=True)
class Import:
    """That ``source`` imports ``target``, both modules, at a line."""

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Find the file of every module by its dotted name below the package; the package itself is ``__init__``."""
    found = {}
    for folder, prefix in ((root / "gloro_fast", ()), (root / "kernels", ("kernels",))):
        for path in sorted(folder.rglob("*.py")):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            if path.resolve().is_relative_to(root / "kernels") and not prefix:
                continue  # Linked into the package by some installations.
            if len(parts) > 1 and parts[-1] == "__init__":
                parts = parts[:-1]
            found[".".join(parts)] = path
    return found


def imports(found: dict[str, Path]) -> Iterator[Import]:
    """List the imports among modules of the package."""
    for source, path in found.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{_absolute(node, source, path)}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                parts = name.split(".")
                if parts[0] == "gloro_fast":
                    yield Import(source, _module(parts[1:], found), node.lineno)


def _absolute(node: ast.ImportFrom, source: str, path: Path) -> str:
    """Return the name of what is imported from, also where it is written from where the importing file lies."""
    if not node.level:
        return node.module or ""
    package = ["gloro_fast", *source.split(".")]
    up = node.level - (path.name == "__init__.py")
    return ".".join([*package[: len(package) - up], *([node.module] if node.module else [])])


def _module(parts: list[str], found: dict[str, Path]) -> str:
    """Return the module that ``parts`` names, or the one that holds what they name."""
    longest = next((n for n in (len(parts), len(parts) - 1) if n > 0 and ".".join(parts[:n]) in found), 0)
    return ".".join(parts[:longest]) or "__init__"


def room(module: str) -> str:
    """Return the room that a module lies in."""
    return module.partition(".")[0]


def floors(all_imports: list[Import], names: tuple[str, ...] = ORDER) -> dict[str, int]:
    """Put each room one floor above the highest that it imports from; upward imports are left out."""
    place = {name: index for index, name in enumerate(names)}
    found: dict[str, int] = {}
    for name in names:
        below = {room(i.target) for i in all_imports if room(i.source) == name} - {name}
        found[name] = 1 + max((found[b] for b in below if place[b] < place[name]), default=0)
    return found


def upward(all_imports: list[Import]) -> list[Import]:
    """List imports from a room that does not come before the importing one in ``ORDER``."""
    place = {name: index for index, name in enumerate(ORDER)}
    return [
        i for i in all_imports if room(i.source) != room(i.target) and place[room(i.target)] > place[room(i.source)]
    ]


def reached(start: str, all_imports: list[Import]) -> set[str]:
    """List the modules that those of a room come to by imports, from one to the next."""
    targets: dict[str, set[str]] = {}
    for i in all_imports:
        targets.setdefault(i.source, set()).add(i.target)
    todo = [source for source in targets if room(source) == start]
    seen: set[str] = set()
    while todo:
        for target in targets.get(todo.pop(), set()) - seen:
            seen.add(target)
            todo.append(target)
    return seen


def circle(all_imports: list[Import]) -> list[str]:
    """Return modules that import each other in a circle; none if there is no circle."""
    targets: dict[str, set[str]] = {}
    for i in all_imports:
        targets.setdefault(i.source, set()).add(i.target)
    left = set(targets) | {t for found in targets.values() for t in found}
    while free := {name for name in left if not targets.get(name, set()) & left}:
        left -= free
    return sorted(left)


def shadowed(found: dict[str, Path]) -> list[str]:
    """List the modules whose name in their package is bound to something else."""
    wrong = []
    for package, path in found.items():
        if path.name != "__init__.py":
            continue
        prefix = "" if package == "__init__" else package + "."
        inside = {name.removeprefix(prefix).partition(".")[0] for name in found if name.startswith(prefix)} - {package}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for name, target in _bound(node):
                if name in inside and target != f"gloro_fast.{prefix}{name}":
                    wrong.append(prefix + name)
    return wrong


def _bound(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield the names that a statement binds, each with what it imports."""
    if isinstance(node, ast.ImportFrom):
        yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name, ""
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from ((target.id, "") for target in targets if isinstance(target, ast.Name))


def report(found: dict[str, Path]) -> str:
    """Describe rooms by floor, from the top, and upward imports."""
    listed = list(imports(found))
    height = floors(listed)
    lines = [f"{len({room(m) for m in found})} rooms on {max(height.values())} floors"]
    lines += [
        f"floor {floor:2}  " + ", ".join(name for name in ORDER if height[name] == floor)
        for floor in range(max(height.values()), 0, -1)
    ]
    lines += [f"{len(upward(listed))} upward imports", *map(str, upward(listed))]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(modules()))
