"""`import repsim_jax` and `repsim --help` stay light: nothing heavy loads before it is used."""

import json
import subprocess
import sys

import pytest

LEFT_TO_THEIR_USERS = {
    "IPython", "matplotlib", "neural_tangents", "onnx", "onnxruntime", "pandas", "PIL", "pyarrow", "sklearn",
    "tokenizers", "torch",
}  # fmt: skip
HEAVY = LEFT_TO_THEIR_USERS | {"flax", "jax", "jaxlib", "numpy", "optax", "safetensors", "scipy", "tensorstore"}
LIST_MODULES = "import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
COMMAND_LINE = """
import sys
from repsim_jax.cli import main
sys.argv = ["repsim", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def modules_after(code: str, *arguments: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\n{LIST_MODULES}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy():
    assert not modules_after("import repsim_jax") & HEAVY


def test_subpackages_load_on_first_use():
    loaded = modules_after("import repsim_jax\nrepsim_jax.similarity.linear_cka")
    assert "jax" in loaded
    assert not loaded & LEFT_TO_THEIR_USERS


def test_analytic_kernels_need_no_neural_tangents():
    loaded = modules_after("from repsim_jax import kernels\nkernels.mlp_kernels")
    assert "jax" in loaded
    assert not loaded & (LEFT_TO_THEIR_USERS | {"flax"})


def test_an_unknown_subpackage_is_named_with_the_known_ones():
    import repsim_jax

    with pytest.raises(AttributeError, match=r"no attribute 'similarly'; it has .*similarity"):
        repsim_jax.similarly  # noqa: B018


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("compare",),
        ("extract",),
        ("tour",),
        ("contrasim",),
        ("contrasim", "fit"),
        ("influence",),
        ("influence", "fit"),
    ],
    ids=" ".join,
)
def test_help_leaves_jax_out(arguments: tuple[str, ...]):
    assert not modules_after(COMMAND_LINE, *arguments, "--help") & HEAVY
