"""A progress bar on standard error, the same for every command that trains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how far something is, silently where standard error is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from repsim_jax.report.text import printable

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(printable(what).replace("[", r"\["))
        yield lambda done, total: progress.update(task, completed=done, total=total)
