"""What goes on, told on standard error, the same for every command."""

import sys


def say(message: str) -> None:
    """Tells what goes on, on standard error."""
    from repsim_jax.report.text import printable

    print(f"repsim: {printable(message)}", file=sys.stderr)
