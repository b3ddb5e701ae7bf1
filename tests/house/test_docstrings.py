"""Every public function and class says what it does, takes, gives and raises; every measure names its source."""

import ast
import inspect
import re
from collections.abc import Iterator

import pytest
from house.source import Function, Source, dotted, functions, package, parse, public_definitions

from repsim_jax import similarity

IMPLICIT = {"self", "cls"}
DOCUMENTED_NAMES = re.compile(r"^\s+(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \(.*?\))?:", re.MULTILINE)


def missing_parts(source: Source) -> Iterator[str]:
    """What the docstrings of one file lack, a line each."""
    if not ast.get_docstring(source.tree):
        yield f"{source.name}:1 has no docstring"
    for where, node in public_definitions(source):
        docstring = ast.get_docstring(node) or ""
        if not docstring:
            yield f"{where} has no docstring"
        elif not docstring.splitlines()[0].endswith((".", "?", ":")):
            yield f"{where}: the first line is not a sentence"
        # What a command of the command line takes stands in the help of its options.
        elif isinstance(node, Function) and not source.module.startswith("repsim_jax.cli"):
            yield from (f"{where}: {lack}" for lack in _missing_sections(node, docstring))


def _missing_sections(node: Function, docstring: str) -> Iterator[str]:
    parameters = [arg.arg for arg in _parameters(node) if arg.arg not in IMPLICIT]
    described = ",".join(DOCUMENTED_NAMES.findall(docstring.partition("Args:")[2]))
    documented = {name.strip("* ") for name in described.split(",")}
    yield from (f"Args leave out {name}" for name in parameters if name not in documented)
    if parameters and _gives_something(node) and not re.search(r"^(Returns|Yields):", docstring, re.MULTILINE):
        yield "no Returns"
    for error in sorted(_raised(node)):
        if f"{error}:" not in docstring.partition("Raises:")[2]:
            yield f"Raises leaves out {error}"


def _parameters(node: Function) -> list[ast.arg]:
    extra = [arg for arg in (node.args.vararg, node.args.kwarg) if arg is not None]
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, *extra]


def _gives_something(node: Function) -> bool:
    return not (node.returns is None or (isinstance(node.returns, ast.Constant) and node.returns.value is None))


def _raised(node: Function) -> set[str]:
    """Names of the error classes that leave the body by its own raise statements."""
    inner = {id(below) for one in functions(node) if one is not node for below in ast.walk(one)}
    caught = {(id(below), name) for one in ast.walk(node) if isinstance(one, ast.Try) for below, name in _caught(one)}
    names = set()
    for one in ast.walk(node):
        if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call) and id(one) not in inner:
            # The class is the last capitalized part of `errors.UnknownNameError.of`.
            capitalized = re.findall(r"\b[A-Z]\w*", dotted(one.exc.func))
            names |= {name for name in capitalized[-1:] if (id(one), name) not in caught}
    return names


def _caught(node: ast.Try) -> Iterator[tuple[ast.AST, str]]:
    """Every node of the try block, with every name that its handlers catch."""
    names = {dotted(name) for handler in node.handlers if handler.type for name in ast.walk(handler.type)}
    return ((below, name) for statement in node.body for below in ast.walk(statement) for name in names)


def test_every_public_definition_is_documented():
    lacks = [lack for source in package() for lack in missing_parts(source)]
    assert not lacks, "\n".join(lacks)


@pytest.mark.parametrize(
    ("text", "lack"),
    [
        ("def f(): ...", "no docstring"),
        ('def f():\n    """Says\n    nothing."""', "not a sentence"),
        ('def f(x):\n    """One line."""', "Args leave out x"),
        ('def f(x, *y):\n    """One line.\n\n    Args:\n        x: It.\n    """', "Args leave out y"),
        ('def f(x) -> int:\n    """One line.\n\n    Args:\n        x: It.\n    """', "no Returns"),
        ('def f():\n    """One line."""\n    raise ValueError("no")', "leaves out ValueError"),
        ('def f():\n    """One line."""\n    raise errors.UnknownNameError.of("a")', "leaves out UnknownNameError"),
    ],
)
def test_a_lack_is_found(text: str, lack: str):
    assert lack in "\n".join(missing_parts(parse("repsim_jax/linalg/x.py", f'"""A module."""\n{text}\n')))


def test_an_error_that_is_caught_inside_needs_no_word():
    text = (
        'def f():\n    """One line."""\n    try:\n        raise ValueError("no")\n    except ValueError:\n        pass'
    )
    assert not list(missing_parts(parse("repsim_jax/linalg/x.py", f'"""A module."""\n{text}\n')))


def test_parameters_that_share_a_line_are_documented():
    text = 'def f(x, y, **z):\n    """One line.\n\n    Args:\n        x, y: Both.\n        **z: More.\n    """'
    assert not list(missing_parts(parse("repsim_jax/linalg/x.py", f'"""A module."""\n{text}\n')))


def test_every_measure_names_its_source():
    functions_of_two = {
        name: inspect.getdoc(function) or ""
        for name in similarity.__all__
        if inspect.isfunction(function := getattr(similarity, name))
        and list(inspect.signature(function).parameters)[:2] == ["x", "y"]
    }
    assert functions_of_two
    assert [name for name, docstring in functions_of_two.items() if "Source:" not in docstring] == []
    assert [name for name, measure in similarity.measures().items() if not measure.source] == []
