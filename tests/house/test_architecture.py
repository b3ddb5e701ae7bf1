"""Imports point down, and only public JAX, safe readers and the house's vocabulary are used."""

import ast
import re
from collections.abc import Iterator

import pytest
from house.source import Source, dotted, functions, imported_modules, package, parse, sources

# Top to bottom; a package may import what stands on a lower floor, and nothing beside or above it.
FLOORS = (
    {"cli"},
    {"report"},
    {"evaluation"},
    {"theory", "influence", "canonicalization", "pathways"},
    {"similarity"},
    {"activations", "pretrained", "training"},
    {"data", "encoders", "losses", "kernels", "resumable", "streaming"},
    {"linalg", "durable", "inference"},
    {"errors", "_compat"},
)
# Names a built-in pretrained model on the command line; loads it only then.
LAZY_EXCEPTIONS = {("repsim_jax.activations.specs", "pretrained")}

FORBIDDEN_WORDS = {"feats", "reps", "emb", "cfg", "net", "utils", "helpers", "misc", "common"}
PRIVATE_JAX = re.compile(r"jax\.(_src|core|extend|interpreters)\b|jaxlib\b")
CODE_RUNNING_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
CODE_RUNNING_CALLS = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "pandas.read_pickle"}
PRINTING_CALLS = {"print", "sys.stdout.write", "sys.stderr.write", "jax.debug.print"}
EVERYWHERE = ("repsim_jax", "tests", "benchmarks", "notebooks")
# Reads the pinned, checksummed weights of packages that ship torch files, opcode by opcode, without running them.
PINNED_WEIGHTS_READER = "repsim_jax/pretrained/_torch_file.py"


def floor(name: str) -> int:
    for number, members in enumerate(FLOORS):
        if name in members:
            return number
    pytest.fail(f"repsim_jax.{name} stands on no floor: put it into FLOORS of this test and into CONTRIBUTING.md")


def upward_imports(source: Source) -> Iterator[str]:
    here = source.module.split(".")[1]
    for line, name in imported_modules(source):
        root, *rest = name.split(".")
        if root != "repsim_jax" or not rest or rest[0] in (here, "__version__"):
            continue
        if (source.module, rest[0]) in LAZY_EXCEPTIONS and is_inside_a_function(source, line):
            continue
        if floor(rest[0]) <= floor(here):
            yield f"{source.name}:{line} imports repsim_jax.{rest[0]}, which is not below repsim_jax.{here}"


def is_inside_a_function(source: Source, line: int) -> bool:
    return any(node.lineno <= line <= (node.end_lineno or line) for node in functions(source.tree))


def test_every_package_stands_on_one_floor():
    for source in package():
        if source.module != "repsim_jax":
            floor(source.module.split(".")[1])
    assert len(set.union(*FLOORS)) == sum(map(len, FLOORS))


def test_imports_point_down_only():
    wrong = [line for source in package() if source.module != "repsim_jax" for line in upward_imports(source)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("repsim_jax/linalg/gram.py", "from repsim_jax import similarity", 1),
        ("repsim_jax/linalg/gram.py", "from ..report.page import write", 1),
        ("repsim_jax/linalg/gram.py", "def f():\n    import repsim_jax.cli", 1),
        (
            "repsim_jax/evaluation/gate.py",
            "from repsim_jax.similarity import compare\nimport repsim_jax.errors",
            0,
        ),
        ("repsim_jax/activations/specs.py", "from repsim_jax import pretrained", 1),
        ("repsim_jax/activations/specs.py", "def f():\n    from repsim_jax import pretrained", 0),
        ("repsim_jax/similarity/cka.py", "from repsim_jax.similarity import checks\nimport jax", 0),
    ],
)
def test_an_upward_import_is_found(name: str, text: str, found: int):
    assert len(list(upward_imports(parse(name, text)))) == found


def private_jax(source: Source) -> Iterator[str]:
    names = [*imported_modules(source)]
    names += [(node.lineno, dotted(node)) for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)]
    return (f"{source.name}:{line} {name}" for line, name in names if PRIVATE_JAX.match(name))


def test_only_public_jax_names_are_used():
    wrong = [line for source in package() if source.module != "repsim_jax._compat" for line in private_jax(source)]
    assert not wrong, "\n".join(wrong)
    assert list(private_jax(parse("x.py", "import jax\nx = jax.core.Tracer\nfrom jax._src import config")))


def code_running(source: Source) -> Iterator[str]:
    for line, name in imported_modules(source):
        if name.split(".")[0] in CODE_RUNNING_MODULES:
            yield f"{source.name}:{line} imports {name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            if dotted(node.func) in CODE_RUNNING_CALLS:
                yield f"{source.name}:{node.lineno} calls {dotted(node.func)}"
            if any(
                keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False" for keyword in node.keywords
            ):
                yield f"{source.name}:{node.lineno} allows pickles"


def test_nothing_that_is_read_can_run_code():
    wrong = [line for source in package() if source.name != PINNED_WEIGHTS_READER for line in code_running(source)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "eval(text)",
    ],
)
def test_a_reader_that_could_run_code_is_found(text: str):
    assert list(code_running(parse("x.py", text)))


def test_only_the_command_line_prints():
    wrong = [
        f"{source.name}:{node.lineno}"
        for source in package()
        if not source.module.startswith("repsim_jax.cli")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and dotted(node.func) in PRINTING_CALLS
    ]
    assert not wrong, wrong


def names_given(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that this file chooses itself: definitions, parameters, assigned variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield 0, node.asname


def test_names_keep_to_the_vocabulary():
    wrong = []
    for source in sources(*EVERYWHERE):
        words = {(0, part) for part in source.name.removesuffix(".py").split("/")} | set(names_given(source.tree))
        wrong += [
            f"{source.name}:{line} {name}" for line, name in words if FORBIDDEN_WORDS & set(name.lower().split("_"))
        ]
    assert not wrong, "\n".join(sorted(wrong))


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    has_docstring = ast.get_docstring(node, clean=False) is not None
    body = node.body[1:] if has_docstring else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_files_have_at_most_400_lines():
    lengths = {source.name: source.text.count("\n") for source in sources(*EVERYWHERE)}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_function_bodies_have_at_most_40_lines():
    lengths = {
        f"{source.name}:{node.lineno} {node.name}": body_lines(node)
        for source in sources("repsim_jax", "benchmarks")
        for node in functions(source.tree)
    }
    assert {name: lines for name, lines in lengths.items() if lines > 40} == {}
