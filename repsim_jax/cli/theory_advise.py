"""``repsim theory advise``: PCA, a kernel or a network on these data?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repsim_jax.cli.extract import Column

if TYPE_CHECKING:
    import numpy as np

    from repsim_jax.data.sources import Source


def advise(
    data: Annotated[
        str, typer.Option(help='"digits", a folder of images, or a file, as in `repsim extract`.')
    ] = "digits",
    column: Column = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Classes: a column (.parquet) or array (.npz) of the data; a .txt file, one a line; a .npy file; "
            '"folder" for the first folder of an image\'s path; "none". Default: those that the data bring.'
        ),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(help="A file of other views of the same examples, in order, as --data. Default: noisy views."),
    ] = None,
    views_column: Annotated[str | None, typer.Option(help="Column or array of the file of views.")] = None,
    view_noise: Annotated[float, typer.Option(help="Norm of the noise of a view, relative to its example.")] = 0.3,
    limit: Annotated[int, typer.Option(min=30, help="Examples that are read, evenly spaced.")] = 5000,
    train: Annotated[int, typer.Option(min=2, help="Training examples of a split; at most two thirds.")] = 1000,
    test: Annotated[int, typer.Option(min=2, help="Test examples of a split; at most one third.")] = 500,
    components: Annotated[int, typer.Option(min=2, help="Dimensions of every embedding.")] = 32,
    widths: Annotated[str, typer.Option(help="Comma-separated: a network of each is trained.")] = "64,512",
    steps: Annotated[int, typer.Option(min=1, help="Steps of Adam for each network.")] = 400,
    seeds: Annotated[int, typer.Option(min=3, help="Random splits; more bring the bounds together.")] = 8,
    margin: Annotated[float, typer.Option(help="Gain in accuracy or retrieval that matters to you.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Of splits, views and networks.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the page, pictures and document.")] = Path("repsim-advice"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the advice as JSON instead of a summary.")] = False,
) -> None:
    """Fit small learners of each kind, and say whether a kernel or a network pays over PCA.

    PCA, kernel PCA, contrastive PCA of random features, an infinitely wide contrastive network (a kernel), and small
    networks trained with NT-Xent embed examples that none has seen; what counts is a ridge probe where there are
    labels, and otherwise how often another view of an example finds it among all. "Undecided" is a verdict.

    \b
    repsim theory advise                                           # scikit-learn's digits, a minute or two
    repsim theory advise --data mnist.npz --column x_train --labels y_train --train 2000
    repsim theory advise --data photos/ --labels folder --views augmented/
    """
    import json

    import jax
    from rich.console import Console

    from repsim_jax import report, theory
    from repsim_jax.cli.bars import bar
    from repsim_jax.cli.outs import check_writable
    from repsim_jax.cli.provenance import provenance
    from repsim_jax.report.text import printable

    check_writable(out)
    recipe = theory.Recipe(num_components=components, widths=_whole_numbers(widths), num_steps=steps)
    source = _opened(data, column)
    rows = _spread(len(source), limit)
    classes = _labels(labels, data, source)
    others = None if views is None else _examples(_as_many(views, views_column, len(source)), rows)
    with bar("fitting") as told:
        advice = theory.advise(
            jax.random.key(seed), _examples(source, rows), labels=None if classes is None else classes[rows],
            views=others, view_noise=view_noise, num_train=train, num_test=test, num_seeds=seeds, recipe=recipe,
            margin=margin, on_progress=lambda _, done, total: told(done, total),
        )  # fmt: skip
    made = {key.replace("_", " "): str(value) for key, value in {"data": Path(data).name, **provenance()}.items()}
    page = report.write_advice(advice, out, provenance=made)
    if as_json:
        typer.echo(json.dumps(report.advice_to_json(advice, provenance=made), allow_nan=False))
        return
    console = Console(highlight=False)
    console.print(report.advice_summary(advice))
    console.print(f"Page: {printable(str(page))}", markup=False, soft_wrap=True)


def _whole_numbers(spec: str) -> tuple[int, ...]:
    from repsim_jax.errors import RepsimError

    try:
        return tuple(int(one) for one in spec.split(","))
    except ValueError as error:
        raise RepsimError(
            f"--widths takes whole numbers with commas between them, such as 64,512; got {spec!r}."
        ) from error


def _opened(data: str, column: str | None) -> "Source":
    from repsim_jax.data import open_source
    from repsim_jax.errors import BadArrayError

    source = open_source(data, column=column)
    if source.modality == "text":
        raise BadArrayError(f"{source.name} holds text; theory needs images or arrays. Extract a layer of it first.")
    return source


def _as_many(views: str, column: str | None, number: int) -> "Source":
    from repsim_jax.errors import AlignmentError

    source = _opened(views, column)
    if len(source) != number:
        raise AlignmentError(
            f"--views must hold one view of each example, in order: {len(source)} views, {number} examples."
        )
    return source


def _spread(number: int, limit: int) -> "np.ndarray":
    """Rows from everywhere: files are often sorted by class."""
    import numpy as np

    return np.unique(np.linspace(0, number - 1, min(number, limit)).round().astype(int))


def _examples(source: "Source", rows: "np.ndarray") -> "np.ndarray":
    """The examples as rows of numbers; images must have one size."""
    import numpy as np

    from repsim_jax.errors import BadArrayError

    found = [np.asarray(source.get(int(i)), np.float64) for i in rows]
    shapes = sorted({one.shape for one in found}, key=str)
    if len(shapes) > 1:
        raise BadArrayError(f"{source.name} holds examples of several shapes, such as {shapes[0]} and {shapes[1]}.")
    return np.stack(found).reshape(len(found), -1)


def _labels(spec: str | None, data: str, source: "Source") -> "np.ndarray | None":
    """A class for every example of the source, or None."""
    import numpy as np

    from repsim_jax.errors import AlignmentError

    if spec in (None, "none"):
        return None if spec == "none" else source.labels
    assert spec is not None
    if spec == "folder" and Path(data).is_dir():
        found = [one.split("/", 1)[0] for one in source.ids]
    else:
        found = _from_file(spec, Path(data))
    classes = np.asarray(found)
    if classes.ndim != 1 or len(classes) != len(source):
        raise AlignmentError(
            f"--labels must give one class for each example, in order: got {classes.shape}, {len(source)} examples."
        )
    return classes


def _from_file(spec: str, data: Path) -> Any:
    import numpy as np

    from repsim_jax.errors import CorruptFileError, FileError, UnknownNameError

    if Path(spec).is_file() and Path(spec).suffix == ".txt":
        return Path(spec).read_text(encoding="utf-8").splitlines()
    try:
        if Path(spec).is_file() and Path(spec).suffix == ".npy":
            return np.load(spec, allow_pickle=False)
        if data.suffix == ".npz":
            with np.load(data, allow_pickle=False) as members:
                if spec not in members.files:
                    raise UnknownNameError.of("array of labels", spec, members.files)
                return members[spec]
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, UnknownNameError):
            raise
        raise CorruptFileError(spec, f"holds no labels that can be read ({error}).") from error
    if data.suffix == ".parquet":
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(data)
        if spec not in file.schema_arrow.names:
            raise UnknownNameError.of("column of labels", spec, file.schema_arrow.names)
        return file.read(columns=[spec]).column(spec).to_pylist()
    raise FileError(spec, "is no .txt or .npy file of labels, and the data have no column of this name.")
