"""The project's own source, parsed once: what the tests that hold the house look at."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeGuard

ROOT = Path(__file__).resolve().parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    """One Python file: ``name`` is its path from the root, ``module`` its dotted name ("" outside the package)."""

    name: str
    module: str
    text: str
    tree: ast.Module


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Parses every Python file below ``folders`` of the checkout."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(parse(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths)


def parse(name: str, text: str) -> Source:
    """Parses one file, real or made up; ``name`` is its path from the root."""
    parts = Path(name).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) if parts[0] == "repsim_jax" else ""
    return Source(name, module, text, ast.parse(text))


def package() -> tuple[Source, ...]:
    """The files of repsim_jax."""
    return sources("repsim_jax")


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method of a file, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def public_definitions(source: Source) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions and classes of a public module, and the public methods of those classes, with their places."""
    if any(part.startswith("_") for part in source.module.split(".")):
        return
    for node in source.tree.body:
        if is_public(node):
            yield f"{source.name}:{node.lineno} {node.name}", node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if is_public(inner) and f"    {inner.name}: " not in (ast.get_docstring(node) or ""):
                    yield f"{source.name}:{inner.lineno} {node.name}.{inner.name}", inner


def is_public(node: ast.stmt) -> TypeGuard[Function | ast.ClassDef]:
    """A function or class without a leading underscore, which is no @overload of another."""
    return (
        isinstance(node, Function | ast.ClassDef)
        and not node.name.startswith("_")
        and not any(dotted(one).endswith("overload") for one in node.decorator_list)
    )


def imported_modules(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, resolved; ``from a import b`` gives ``a.b``, be ``b`` a module or not."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = source.module.split(".")
                parents = len(here) - node.level + source.name.endswith("/__init__.py")
                base = ".".join([*here[:parents], *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def dotted(node: ast.AST) -> str:
    """The dotted name that an attribute chain spells ("jax.core.Jaxpr"), or ""."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""
