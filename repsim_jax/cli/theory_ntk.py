"""``repsim theory ntk``: the empirical tangent kernel of a model on a data set, into a file, resumable."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.extract import Column, Data, IdColumn, Limit, Size
from repsim_jax.cli.sizes import parse_bytes

if TYPE_CHECKING:
    import numpy as np

    from repsim_jax.data.sources import Source
    from repsim_jax.kernels import Cost

NtkModel = Annotated[
    str,
    typer.Argument(
        help="A built-in name (see `repsim models`), hf:FOLDER, or module:factory, which returns a flax.nnx module, "
        "(linen module, variables), (apply_fn, params), or an object with .model and .prepare.",
        show_default=False,
    ),
]
_BATCH = 256


def ntk(
    model: NtkModel,
    data: Data,
    out: Annotated[
        Path, typer.Option(help="Folder of kernel.npy, the page and the document; an unfinished kernel is resumed.")
    ] = Path("repsim-ntk"),
    column: Column = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    outputs: Annotated[
        str,
        typer.Option(
            help="trace (mean over the outputs), sum (pseudo-NTK: the cost of one output), or the number of one output."
        ),
    ] = "trace",
    params_filter: Annotated[
        str | None,
        typer.Option(
            "--layers-matching", help="Regular expression: only parameters in whose path it is found, e.g. '^head/'."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="FILE.npy of one class per example (of all, where --limit takes the first), or a column of the "
            ".parquet file, for the alignment."
        ),
    ] = None,
    block: Annotated[int | None, typer.Option(help="Rows per strip. Default: as many as fit into --memory.")] = None,
    memory: Annotated[str, typer.Option(help="For tangents, beside the model and JAX: 500M, 4G.")] = "2G",
    output_block: Annotated[
        int | None, typer.Option(help="Outputs differentiated at once (trace): memory falls. Default: all.")
    ] = None,
    size: Size = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the document instead of a summary.")] = False,
) -> None:
    """The empirical neural tangent kernel of your model on your data, in bounded memory.

    Entry (i, j) tells how a step of gradient descent on example i moves the outputs of example j. The kernel goes to
    OUT/kernel.npy strip by strip. Stopped in the middle? Give the same command again: it goes on where it was.
    Afterwards: spectrum, effective rank, whether it is positive semidefinite beyond rounding, examples that repeat
    others, and alignment with labels.

    \b
    repsim theory ntk my_code:make_model --data digits
    repsim theory ntk my_code:make_model --data x.npy --labels y.npy --outputs sum --memory 4G --out kernel
    repsim theory ntk my_code:make_model --data digits --layers-matching '^head/' --outputs 3
    """
    import json

    from rich.console import Console

    from repsim_jax import kernels, report
    from repsim_jax.cli.bars import bar
    from repsim_jax.cli.outs import check_writable
    from repsim_jax.data.sources import open_source
    from repsim_jax.report.text import printable

    check_writable(_folder(out))
    source = open_source(data, column=column, id_column=id_column, limit=limit)
    classes = _classes(labels, data, source, lambda: len(open_source(data, column=column, id_column=id_column)))
    parts, params, x = _model_and_inputs(model, source, size)
    asked = {
        "outputs": int(outputs) if outputs.lstrip("-").isdecimal() else outputs,
        "block": block,
        "memory": parse_bytes(memory),
        "output_block": output_block,
        "params_filter": params_filter,
    }
    _tell_cost(kernels.ntk_cost(parts, params, x, **asked), len(x))
    with bar("tangent kernel") as on_progress:
        kernel = kernels.ntk_to_file(parts, params, x, out, **asked, on_progress=on_progress)
    _say(f"{out / 'kernel.npy'} is complete; its eigenvalues are next")
    summary = kernels.summarize_kernel(kernel, labels=classes)
    provenance = _provenance(model, data, outputs, params_filter)
    page = report.write_ntk(summary, out, ids=source.ids, provenance=provenance)
    if as_json:
        typer.echo(json.dumps(report.ntk_to_json(summary, ids=source.ids, provenance=provenance), allow_nan=False))
        return
    console = Console(highlight=False)
    console.print(report.ntk_summary(summary, ids=source.ids))
    console.print(f"Page: {printable(str(page))}", markup=False, soft_wrap=True)


def _folder(out: Path) -> Path:
    from repsim_jax.errors import FileError

    if out.suffix == ".npy":
        raise FileError(out, "--out is a folder, which will hold kernel.npy and what is told about it.")
    return out


def _model_and_inputs(spec: str, source: "Source", size: int | None) -> tuple[Any, Any, "np.ndarray"]:
    """A model that JAX differentiates, its parameters (None for a module that holds them), and all inputs."""
    import numpy as np

    from repsim_jax.activations.specs import named_model, preparation_of, prepared
    from repsim_jax.errors import RepsimError

    loaded = named_model(spec)
    model = getattr(loaded, "model", loaded)
    if isinstance(model, str | Path) or hasattr(model, "named_parameters"):  # the latter is PyTorch's
        raise RepsimError(
            f"{spec}: a tangent kernel needs a model that JAX differentiates; ONNX files and PyTorch modules are not. "
            "Write it as a flax module or as apply_fn(params, x)."
        )
    parts, params = model if isinstance(model, tuple) and len(model) == 2 else (model, None)
    prepare = preparation_of(spec, loaded, size, channels_first=False)
    batches = [batch.inputs for batch in prepared(source, prepare, _BATCH)(0)]
    if not all(hasattr(one, "shape") for one in batches):
        raise RepsimError(
            f"{spec} takes several arrays (such as token ids and a mask); theory ntk takes models of one array."
        )
    return parts, params, np.concatenate([np.asarray(one) for one in batches])


def _classes(labels: str | None, data: str, source: "Source", count_all: Callable[[], int]) -> "np.ndarray | None":
    """The class of each example by number: of the file or column that was named, or those that the data set brings."""
    import numpy as np

    from repsim_jax.errors import AlignmentError, BadArrayError

    if labels is None:
        names, numbers = np.unique(() if source.labels is None else source.labels, return_inverse=True)
        return numbers if len(names) > 1 else None
    n, found = len(source), np.asarray(labels_of(labels, data))
    if found.ndim == 1 and len(found) > n and len(found) == count_all():
        found = found[:n]
    if found.shape != (n,):
        raise AlignmentError(f"--labels needs one label for each of {n} examples, got shape {found.shape}.")
    if found.dtype.kind == "f" and not np.array_equal(found, np.rint(found)):
        raise BadArrayError("--labels takes classes, got numbers that are not whole. Round or bin them.")
    names, numbers = np.unique(found.astype(str) if found.dtype.kind == "O" else found, return_inverse=True)
    if not 2 <= len(names) <= n // 3:
        raise BadArrayError(
            f"--labels needs two classes or more, of three examples on average, got {len(names)} classes of {n} "
            "examples. Leave --labels out to have the kernel without its alignment."
        )
    return numbers


def labels_of(labels: str, data: str) -> Any:
    """Labels from FILE.npy, or from a column of the .parquet data."""
    import numpy as np

    from repsim_jax.errors import FileError

    if not labels.endswith(".npy"):
        return _column(labels, data)
    try:
        return np.load(labels, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FileError(labels, f"holds no array of labels: {error}.") from error


def _column(name: str, data: str) -> list[Any]:
    from repsim_jax.errors import FileError, MissingPackageError, UnknownNameError

    if not data.endswith(".parquet"):
        raise FileError(name, "labels are a .npy file, or a column where --data is a .parquet file.")
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingPackageError.of("pyarrow", "to read labels from a .parquet file", "table") from error
    known = parquet.read_schema(data).names
    if name not in known:
        raise UnknownNameError.of("column", name, known)
    return parquet.read_table(data, columns=[name]).column(name).to_pylist()


def _tell_cost(cost: "Cost", examples: int) -> None:
    """Before a long run: how long, and in how much memory."""
    rate = _product_rate()
    strips = -(-examples // cost.block)
    _say(
        f"{examples:,} examples, {cost.num_parameters:,} parameters, {cost.num_outputs:,} outputs: "
        f"{cost.flop:.1e} floating-point operations, at least {_duration(cost.flop / rate)} at this machine's "
        f"{rate / 1e9:.0f} GFLOP/s; {cost.memory / 2**30:.2f} GiB of memory, {cost.file / 2**30:.3f} GiB on the disk; "
        f"{strips} strips of {cost.block:,} rows, each kept once it is done"
    )


def _product_rate() -> float:
    """Operations per second in plain matrix products."""
    import time

    import jax
    import jax.numpy as jnp

    a, size = jnp.ones((1024, 1024)), 1024
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    start = time.perf_counter()
    for _ in range(5):
        jax.block_until_ready(product(a))
    return 5 * 2 * size**3 / (time.perf_counter() - start)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} minutes" if minutes < 120 else f"{hours:.1f} hours"


def _provenance(model: str, data: str, outputs: str, params_filter: str | None) -> dict[str, str]:
    from repsim_jax.cli.provenance import provenance

    told = {"model": model, "data": Path(data).name, "outputs": outputs, "layers matching": params_filter or "all"}
    return {**told, **{key: str(value) for key, value in provenance().items()}}


def _say(message: str) -> None:
    from repsim_jax.report.text import printable

    print(f"repsim: {printable(message)}", file=sys.stderr)
