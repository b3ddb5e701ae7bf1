"""With orthonormal output weights: is the learned representation PCA of random features?"""

from collections.abc import Iterator

import jax
import numpy as np

from repsim_jax.linalg.stiefel import retract
from repsim_jax.theory.claims import Claim, Series, Setup, Told, interval_told, start_of
from repsim_jax.theory.exponents import exponent
from repsim_jax.theory.pca import (
    Constrained,
    ContrastivePca,
    contrastive_pca,
    davis_kahan,
    procrustes_error,
    subspace_affinity,
    train_orthonormal,
)

# Frozen features must give PCA up to rounding.
_EXACT = 1e-10
# A loss that is within this share of its optimum has arrived there.
_ARRIVED = 1e-14
# Of 20 looks, with steps of 0.2: until t = 40, and until t = 4,000.
_SUBSTEPS_TRAINED, _SUBSTEPS_FROZEN = 10, 1000


def frozen_is_pca(key: jax.Array, x: jax.Array, setup: Setup, told: Told) -> Claim:
    """With frozen features and orthonormal output weights, training ends at PCA exactly.

    Args:
        key: Random key.
        x: Points in float64.
        setup: Widths and seeds.
        told: Takes lines of progress.

    Returns:
        The claim.
    """
    values = np.empty((len(setup.widths), setup.num_seeds))
    affinity, gaps, losses = np.empty_like(values), np.empty_like(values), np.empty_like(values)
    for i, width in enumerate(setup.widths):
        told(f"frozen features against PCA, width {width}")
        for s, (start, trained) in enumerate(_orthonormal(key, x, setup, width, train_hidden=False)):
            values[i, s] = procrustes_error(trained.embeddings[-1], start.embeddings)
            affinity[i, s] = subspace_affinity(trained.embeddings[-1], start.embeddings)
            gaps[i, s], losses[i, s] = start.gap, float(trained.losses[-1]) / start.optimum
    worst = float(values.max())
    return Claim(
        name="frozen features give PCA",
        statement="With hidden weights frozen at their start and orthonormal output weights, the linear contrastive "
        "loss is minimized by the principal components of a matrix of random features.",
        origin="the paper (near the principal components); our derivation (exactly, where features are frozen)",
        predicted=f"Procrustes error at the level of rounding, below {_EXACT:g}",
        observed=f"largest Procrustes error {worst:.1e}, smallest affinity {affinity.min():.6f}, loss over its optimum "
        f"{losses.min():.6f} to {losses.max():.6f}, gap {gaps.min():.2g} to {gaps.max():.2g}",
        # Where the gap is small, descent has not arrived; the claim is about where it ends.
        verdict="holds" if worst < _EXACT else "undecided" if losses.min() < 1 - _ARRIVED else "does not hold",
        quantity="Procrustes error of the learned embeddings against PCA",
        series=(Series(f"linear, dot, orthonormal; {setup.activations[0]}", setup.widths, values),),
        details={"smallest gap": float(gaps.min()), "smallest affinity": float(affinity.min())},
    )


def trained_is_near_pca(key: jax.Array, x: jax.Array, setup: Setup, told: Told) -> Claim:
    """With trained features the network leaves PCA in proportion to time over width.

    Args:
        key: Random key.
        x: Points in float64.
        setup: Widths and seeds.
        told: Takes lines of progress.

    Returns:
        The claim.
    """
    change = np.empty((len(setup.widths), setup.num_seeds))
    errors, angles, bounds = np.empty_like(change), np.empty_like(change), np.empty_like(change)
    in_time = []
    for i, width in enumerate(setup.widths):
        told(f"trained features against PCA, width {width}")
        for s, (start, trained) in enumerate(_orthonormal(key, x, setup, width, train_hidden=True)):
            change[i, s] = trained.gram_change()
            errors[i, s] = procrustes_error(trained.embeddings[-1], start.embeddings)
            angles[i, s] = trained.angle(start)
            bounds[i, s] = davis_kahan(trained.matrix_change(), start.gap)
            if width == setup.widths[-1]:
                looks = len(trained.losses)
                # From the second half on, when the output weights have settled.
                halves = np.asarray([[trained.gram_change(looks // 2 - 1)], [trained.gram_change()]])
                in_time.append(np.log(halves[1, 0] / halves[0, 0]) / np.log(looks / (looks // 2)))
    generator = np.random.default_rng(0)
    in_width = exponent(generator, np.asarray(setup.widths), change)
    of_error = exponent(generator, np.asarray(setup.widths), errors)
    violated = int((angles > bounds + 1e-6).sum())
    return Claim(
        name="trained features stay near PCA",
        statement="Where hidden weights are trained too, the representation stays close to those principal components, "
        "the closer the wider the network.",
        origin="the paper (that it stays close); our derivation (in proportion to time over width)",
        predicted="change of the features' Gram matrix with exponent -1 in the width and +1 in time",
        observed=f"exponent {interval_told(in_width)} in the width, {np.mean(in_time):.2f} in time; Procrustes error "
        f"with exponent {interval_told(of_error)}; Davis-Kahan bound violated {violated} of {angles.size} times",
        verdict="does not hold" if violated or in_width.low >= 0 else "holds" if in_width.high < 0 else "undecided",
        quantity="relative change of the Gram matrix of the hidden features",
        series=(
            Series(f"Gram matrix; {setup.activations[0]}", setup.widths, change, in_width),
            Series(f"Procrustes error; {setup.activations[0]}", setup.widths, errors, of_error),
        ),
        details={
            "sines of the largest angle": angles.tolist(),
            "Davis-Kahan bounds": bounds.tolist(),
            "exponent in time": float(np.mean(in_time)),
        },
    )


def _orthonormal(
    key: jax.Array, x: jax.Array, setup: Setup, width: int, *, train_hidden: bool
) -> Iterator[tuple[ContrastivePca, Constrained]]:
    """For each seed the PCA of its features at the start, and what training made of them."""
    network = setup.network(width, setup.activations[0], setup.num_components)
    # Descent on frozen features goes on until it has arrived; features that move are looked at for a while.
    substeps = _SUBSTEPS_TRAINED if train_hidden else _SUBSTEPS_FROZEN
    n = len(x)
    for seed in range(setup.num_seeds):
        params = start_of(key, network, x.shape[1], seed)
        params = (*params[:-1], retract(params[-1]))
        trained = train_orthonormal(params, x, network=network, train_hidden=train_hidden, num_substeps=substeps)
        yield contrastive_pca(np.asarray(trained.grams[0][:n, :n]), setup.num_components), trained
