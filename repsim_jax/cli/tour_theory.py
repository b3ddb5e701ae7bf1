"""The tour's chapter on theory: cosines keep the tangent kernel of a wide network, dot products do not."""

from pathlib import Path
from typing import Any

from repsim_jax.cli.bars import bar

_WIDTHS, _SEEDS, _TRIPLETS, _OUTPUTS = (64, 256, 1024), 3, 8, 8
_HORIZON, _TIMES = 2.0, 19


def chapter(console: Any, out: Path, *, seed: int) -> Path:
    """Follows wide networks under two losses; prints what became of their kernels, and writes a picture."""
    import jax

    from repsim_jax import report, theory
    from repsim_jax.cli.theory import examples

    console.print(
        "\nIs a wide contrastive network just a kernel? Change of its tangent kernel by training, at three widths:",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    setup = theory.Setup(
        widths=_WIDTHS, num_seeds=_SEEDS, num_outputs=_OUTPUTS, activations=("tanh",), horizon=_HORIZON,
        num_times=_TIMES,
    )  # fmt: skip
    key_data, key_networks = jax.random.split(jax.random.key(seed))
    given = theory.triplets(key_data, examples("digits", None, None), num_triplets=_TRIPLETS)
    with bar("following gradient flow") as on_progress:
        steps = len(_WIDTHS) * _SEEDS * 2
        done = iter(range(1, steps + 1))
        courses = theory.drift(
            key_networks, given, setup=setup, on_progress=lambda _: on_progress(next(done, steps), steps)
        )
    console.print(report.courses_summary(courses))
    return report.write_courses(courses, out / "theory", provenance={"command": "repsim tour"})
