"""``repsim theory``: do the claims on wide contrastive networks hold on these data?"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.extract import Column
from repsim_jax.cli.theory_advise import advise
from repsim_jax.cli.theory_ntk import ntk

if TYPE_CHECKING:
    import numpy as np

# Sets that are known by their file, with the column of the images.
_KNOWN = {"mnist.npz": "x_train", "cifar10_jpeg.parquet": "jpeg"}

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.command("advise")(advise)
app.command("ntk")(ntk)


@app.callback()
def theory() -> None:
    """When is a wide contrastive network just a kernel, or PCA? The claims of arXiv 2403.08673, put to the test.

    Wide networks of NTK parametrization are trained on triplets of your examples (an example, a noisy view of it,
    another example) by gradient flow, at several widths and seeds; each claim of the theory gets a verdict.

    \b
    repsim theory verify
    repsim theory verify --data images.parquet --column jpeg --widths 64,256,1024,4096,16384 --out claims
    """


@app.command("verify")
def verify(
    data: Annotated[
        str,
        typer.Option(
            help='"digits", a folder of images, or a file, as in `repsim extract`; or a folder with mnist.npz or '
            "cifar10_jpeg.parquet: each of them."
        ),
    ] = "digits",
    column: Column = None,
    limit: Annotated[int, typer.Option(min=4, help="Examples that are read; triplets are drawn among them.")] = 2000,
    widths: Annotated[str, typer.Option(help="Comma-separated, rising; at least three.")] = "64,256,1024,4096",
    seeds: Annotated[int, typer.Option(min=3, help="Networks at each width.")] = 5,
    triplets: Annotated[int, typer.Option(min=2, help="Triplets that networks are trained on.")] = 8,
    view_noise: Annotated[float, typer.Option(help="Norm of the noise of a view, relative to its example.")] = 0.3,
    hidden: Annotated[int, typer.Option(min=1, help="Hidden layers; the theorems are about one.")] = 1,
    outputs: Annotated[int, typer.Option(min=1, help="Outputs of the networks.")] = 16,
    components: Annotated[int, typer.Option(min=1, help="Outputs of those that are held against PCA.")] = 2,
    horizon: Annotated[float, typer.Option(help="Time of gradient flow.")] = 16.0,
    beyond: Annotated[
        bool,
        typer.Option(
            "--beyond",
            help="Also what lies beyond the theory, and the phase diagram; ten minutes and more on two cores.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of triplets and networks.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the page, pictures and document.")] = Path("repsim-theory"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the claims as JSON instead of a summary.")] = False,
) -> None:
    """Test each claim, print the verdicts, and write a page with a picture for each.

    Claims: cosine losses keep the tangent kernel; the linear loss of dot products leaves it at a time like log M;
    losses with a lower bound keep it under dot products too, others escape; with orthonormal output weights frozen
    features give PCA exactly, and trained ones stay near. Each is marked as the paper's, our derivation or our
    measurement. Verdicts hold on these data, at these widths, up to --horizon.

    --beyond adds depth, ReLU, LayerNorm, BatchNorm, minibatches, momentum, Adam, temperature and learning rates; what
    pulls a network away from PCA; and a diagram of the kernel's change over width, time and learning rate.

    \b
    repsim theory verify                                           # scikit-learn's digits, about two minutes
    repsim theory verify --data mnist.npz --column x_train --widths 64,256,1024,4096,16384
    repsim theory verify --data ../shared/data --triplets 16 --widths 64,256,1024,4096,16384
    """
    import json

    import jax
    from rich.console import Console

    from repsim_jax import report
    from repsim_jax import theory as instrument
    from repsim_jax.cli.outs import check_writable
    from repsim_jax.report.text import printable

    check_writable(out)
    setup = instrument.Setup(
        widths=_widths(widths), num_seeds=seeds, num_hidden=hidden, num_outputs=outputs, num_components=components,
        horizon=horizon,
    )  # fmt: skip
    key_data, key_networks = jax.random.split(jax.random.key(seed))
    console, documents = Console(highlight=False), []
    for folder, path, part in _sources(data, column):
        given = instrument.triplets(
            key_data, examples(path, part, limit), num_triplets=triplets, view_noise=view_noise
        )  # fmt: skip
        with _telling() as told:
            claims = instrument.verify(key_networks, given, setup=setup, beyond=beyond, on_progress=told)
            phase = instrument.phase_diagram(key_networks, given, num_seeds=seeds, on_progress=told) if beyond else None
        provenance = {key.replace("_", " "): str(value) for key, value in _provenance(path).items()}
        provenance |= {"triplets": str(triplets), "view noise": f"{view_noise:g}", "hidden layers": str(hidden),
                       "outputs": str(outputs), "seed": str(seed)}  # fmt: skip
        page = report.write_claims(claims, out / folder, phase=phase, provenance=provenance)
        documents.append(report.claims_to_json(claims, provenance=provenance))
        if not as_json:
            console.print(report.claims_summary(claims))
            console.print(f"Page: {printable(str(page))}", markup=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(documents if len(documents) > 1 else documents[0], allow_nan=False))


def _sources(data: str, column: str | None) -> list[tuple[str, str, str | None]]:
    """Folder of the page, data, and column; several where the data are a folder that holds sets that we know."""
    known = [(name, part) for name, part in _KNOWN.items() if (Path(data) / name).is_file()]
    if column is not None or not known:
        return [("", data, column)]
    return [(name.partition(".")[0], str(Path(data) / name), part) for name, part in known]


def _widths(spec: str) -> tuple[int, ...]:
    from repsim_jax.errors import RepsimError

    try:
        return tuple(int(one) for one in spec.split(","))
    except ValueError as error:
        raise RepsimError(
            f"--widths takes whole numbers with commas between them, such as 64,256,1024; got {spec!r}."
        ) from error


def examples(data: str, column: str | None, limit: int | None) -> "np.ndarray":
    """The examples of a source as rows of numbers; images must have one size."""
    import numpy as np

    from repsim_jax.data import open_source
    from repsim_jax.errors import BadArrayError

    source = open_source(data, column=column, limit=limit)
    if source.modality == "text":
        raise BadArrayError(f"{source.name} holds text; theory needs images or arrays. Extract a layer of it first.")
    rows = [np.asarray(source.get(i), np.float64) for i in range(len(source))]
    shapes = sorted({row.shape for row in rows}, key=str)
    if len(shapes) > 1:
        raise BadArrayError(f"{source.name} holds examples of several shapes, such as {shapes[0]} and {shapes[1]}.")
    return np.stack(rows).reshape(len(rows), -1)


def _provenance(data: str) -> dict[str, Any]:
    from repsim_jax.cli.provenance import provenance

    return {"data": Path(data).name, **provenance()}


@contextmanager
def _telling() -> Iterator[Any]:
    from rich.console import Console

    from repsim_jax.report.text import styled

    console = Console(stderr=True)
    with console.status("verifying") as status:
        yield lambda line: status.update(styled(line))
