"""A short fit without labels beats an untrained network; rounds, priors, tasks and bad input do as they say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from canonicalization_cases import KEY, photographs
from flax import nnx

from repsim_jax import canonicalization as canon
from repsim_jax.canonicalization.canonicalizers import orbit_energies
from repsim_jax.canonicalization.fitting import as_before
from repsim_jax.data import open_source
from repsim_jax.encoders import ConvNet, ConvNetConfig
from repsim_jax.errors import (
    BadArrayError,
    CorruptFileError,
    DivergedError,
    FileError,
    StoreMismatchError,
    UnknownNameError,
)

C4 = canon.cyclic(4)
SHORT = canon.Recipe(num_steps=50, batch_size=32, widths=(8, 8), num_outputs=16)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    source = open_source("digits")
    return np.stack([source.get(i) for i in range(384)]).reshape(-1, 8, 8, 1)


@pytest.fixture(scope="module")
def fitted(digits: np.ndarray) -> canon.Fitted:
    return canon.fit(KEY, digits[:256], C4, recipe=SHORT)


def upright_rate(canonicalizer: canon.Canonicalizer, x: np.ndarray) -> float:
    return float((np.asarray(canonicalizer(x).elements.index) == 0).mean())


def test_a_short_fit_without_labels_finds_digits_upright(digits: np.ndarray, fitted: canon.Fitted):
    before = canon.untrained(KEY, (8, 8, 1), C4, widths=SHORT.widths, num_outputs=SHORT.num_outputs)
    found = upright_rate(fitted.canonicalizer, digits[256:])
    assert found > 0.75
    assert found > upright_rate(before, digits[256:]) + 0.3
    assert fitted.losses.shape == (50,)
    assert fitted.losses[-10:].mean() < 0.5 * fitted.losses[:10].mean()
    assert fitted.identity_rate > 0.8
    # no claim on the margin: so short a fit does not raise it for every seed
    assert fitted.median_margin > 0


def test_it_stays_exact_after_training(digits: np.ndarray, fitted: canon.Fitted):
    forms = [fitted.canonicalizer(np.rot90(digits[256:], k, axes=(1, 2)).copy()).canonical for k in range(4)]
    assert all(np.array_equal(forms[0], one) for one in forms)


def test_the_same_key_gives_the_same_bytes_and_progress_is_told(digits: np.ndarray, fitted: canon.Fitted):
    told: list[tuple[int, int]] = []
    again = canon.fit(KEY, digits[:256], C4, recipe=SHORT, on_progress=lambda *counts: told.append(counts))
    np.testing.assert_array_equal(again.losses, fitted.losses)
    assert told == [(50, 50)]


@pytest.mark.slow
def test_a_prior_says_in_which_pose_the_images_are(digits: np.ndarray):
    """All are lying: with the prior that says so, they are brought upright, and not left as they are."""
    lying = np.rot90(digits[:256], axes=(1, 2)).copy()
    objective = canon.Objective(prior=(0.0, 1.0, 0.0, 0.0))
    found = canon.fit(KEY, lying, C4, objective=objective, recipe=SHORT)
    assert upright_rate(found.canonicalizer, digits[256:]) > 0.75
    assert found.identity_rate < 0.1


@pytest.mark.slow
def test_rounds_realign_images_in_any_pose(digits: np.ndarray):
    """After rounds from the entropy alone, images are surer of a pose, and those that were realigned stay."""
    turns = np.random.default_rng(0).integers(0, 4, 256)
    posed = np.stack([np.rot90(x, k) for x, k in zip(digits[:256], turns, strict=True)])
    told: list[tuple[int, int]] = []
    recipe = canon.Recipe(num_steps=40, batch_size=32, num_rounds=2, widths=(8, 8), num_outputs=16)
    found = canon.fit(
        KEY, posed, C4, objective=canon.UNALIGNED, recipe=recipe, on_progress=lambda *counts: told.append(counts)
    )
    assert told == [(40, 80), (80, 80)]
    assert found.losses.shape == (80,)
    assert found.identity_rate > 0.8
    before = canon.untrained(KEY, (8, 8, 1), C4, widths=recipe.widths, num_outputs=recipe.num_outputs)
    assert found.median_margin > 2 * float(np.median(before(posed).margin))


@pytest.mark.slow
def test_the_task_reaches_the_canonicalizer_through_the_pose(digits: np.ndarray):
    """A model that wants what is bright on the left, and a task alone."""
    model = ConvNet(ConvNetConfig((2,), 4, 2), rngs=nnx.Rngs(0))
    objective = canon.Objective(prior_weight=0.0, contrast_weight=0.0, task_weight=1.0, artifact_weight=0.1)
    recipe = canon.Recipe(num_steps=2, batch_size=16, widths=(4,), num_outputs=8, learns_vector=True)
    labels = np.zeros(32, int)
    found = canon.fit(KEY, digits[:32], C4, objective=objective, recipe=recipe, model=model, labels=labels)
    start = canon.untrained(KEY, (8, 8, 1), C4, widths=(4,), num_outputs=8)
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), found.canonicalizer.energy.params, start.energy.params
    )
    assert max(jax.tree.leaves(moved)) > 1e-4
    assert float(np.abs(found.canonicalizer.energy.vector - start.energy.vector).max()) > 1e-4
    with pytest.raises(BadArrayError, match="needs a model and labels"):
        canon.fit(KEY, digits[:32], C4, objective=objective, recipe=recipe, labels=labels)


def test_straight_through_gives_the_canonical_form_and_the_gradient_of_the_mean_pose():
    x = jnp.asarray(photographs(6))
    energies = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)), jnp.float32)

    @jax.jit
    def both(energies: jax.Array) -> Any:
        weight = jnp.arange(x.size).reshape(x.shape) / x.size
        hard, back = jax.vjp(lambda e: canon.straight_through(C4, x, e, 0.5), energies)
        return hard, back(weight)[0]

    hard, gradient = both(energies)
    poses = np.stack([np.rot90(x, -k, axes=(1, 2)) for k in range(4)], 1)
    index = np.asarray(energies).argmin(1)
    np.testing.assert_array_equal(hard, poses[np.arange(4), index])
    weight = (np.arange(x.size) / x.size).reshape(x.shape)
    scores = np.einsum("bghwc,bhwc->bg", poses, weight)
    shares = np.asarray(jax.nn.softmax(-energies / 0.5, axis=-1))
    wanted = -shares * (scores - (shares * scores).sum(1, keepdims=True)) / 0.5
    np.testing.assert_allclose(gradient, wanted, atol=1e-3)


@pytest.mark.slow
def test_an_infinite_rate_of_learning_is_told(digits: np.ndarray):
    recipe = canon.Recipe(num_steps=8, batch_size=16, learning_rate=1e30, widths=(4,), num_outputs=8)
    with pytest.raises(DivergedError, match=r"round 0\. Lower the learning rate"):
        canon.fit(KEY, digits[:32], C4, recipe=recipe)


@pytest.mark.parametrize(
    ("images", "group", "options", "message"),
    [
        (np.zeros((4, 8, 8)), C4, {}, r"images \(n, height, width, channels\)"),
        (np.zeros((4, 8, 6, 1), np.float32), C4, {}, "square"),
        (np.full((4, 8, 8, 1), np.inf, np.float32), C4, {}, "NaN or infinity"),
        (np.zeros((4, 8, 8, 1), np.float32), C4, {"objective": canon.Objective(prior=(1.0,))}, "1 probabilities for 4"),
    ],
)  # fmt: skip
def test_bad_training_images_are_refused(images: Any, group: Any, options: Any, message: str):
    with pytest.raises(BadArrayError, match=message):
        canon.fit(KEY, images, group, recipe=SHORT, **options)


def test_a_recipe_without_steps_is_refused():
    with pytest.raises(BadArrayError, match="whole num_steps"):
        canon.Recipe(num_steps=0)


@pytest.mark.slow
def test_digits_are_found_upright_by_nineteen_in_twenty():
    source = open_source("digits")
    x = jax.image.resize(
        np.stack([source.get(i) for i in range(1797)]).reshape(-1, 8, 8, 1), (1797, 16, 16, 1), "linear"
    )
    x = np.asarray(x)[np.random.default_rng(0).permutation(1797)]
    found = canon.fit(KEY, x[:1300], C4, recipe=canon.Recipe(num_steps=600))
    assert upright_rate(found.canonicalizer, x[1300:]) > 0.94
    assert np.isfinite(orbit_energies(found.canonicalizer, jnp.asarray(x[:8]))).all()


def stop(done: int, total: int) -> None:
    raise KeyboardInterrupt


def test_a_kept_fit_is_not_made_again_and_belongs_to_its_folder(
    digits: np.ndarray, fitted: canon.Fitted, tmp_path: Path
):
    with pytest.raises(KeyboardInterrupt):
        canon.fit(KEY, digits[:256], C4, recipe=SHORT, folder=tmp_path, on_progress=stop)
    again = canon.fit(KEY, digits[:256], C4, recipe=SHORT, folder=tmp_path, on_progress=stop)
    np.testing.assert_array_equal(again.losses, fitted.losses)
    jax.tree.map(np.testing.assert_array_equal, again.canonicalizer.energy.params, fitted.canonicalizer.energy.params)
    with pytest.raises(StoreMismatchError, match="another run"):
        canon.fit(jax.random.key(1), digits[:256], C4, recipe=SHORT, folder=tmp_path)


@pytest.mark.slow
def test_a_fit_that_was_stopped_in_a_round_goes_on_to_the_same_bytes(digits: np.ndarray, tmp_path: Path):
    recipe = canon.Recipe(num_steps=60, batch_size=16, num_rounds=2, widths=(4,), num_outputs=8)
    whole = canon.fit(KEY, digits[:64], C4, recipe=recipe)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            canon.fit(KEY, digits[:64], C4, recipe=recipe, folder=tmp_path, on_progress=stop)
    again = canon.fit(KEY, digits[:64], C4, recipe=recipe, folder=tmp_path)
    np.testing.assert_array_equal(again.losses, whole.losses)
    assert again.median_margin == whole.median_margin


def test_a_canonicalizer_that_was_saved_is_the_same(digits: np.ndarray, fitted: canon.Fitted, tmp_path: Path):
    build = canon.Build("c4", (8, 8, 1), canon.Views(), SHORT.widths, SHORT.num_outputs)
    canon.save_canonicalizer(tmp_path, fitted.canonicalizer, build, {"seed": 0})
    loaded, same, about = canon.load_canonicalizer(tmp_path)
    assert (same, about) == (build, {"seed": 0})
    x = jnp.asarray(digits[256:384])
    np.testing.assert_array_equal(loaded(x).energies, fitted.canonicalizer(x).energies)
    record = (tmp_path / "canonicalizer.json").read_text()
    (tmp_path / "canonicalizer.json").write_text(record.replace('"c4"', '"c8"'))  # and not within the checksum
    loaded, _, _ = canon.load_canonicalizer(tmp_path)
    assert loaded.group.name == "C8"
    (tmp_path / "canonicalizer.json").write_text("{}")
    with pytest.raises(CorruptFileError, match="no record of a canonicalizer"):
        canon.load_canonicalizer(tmp_path)
    with pytest.raises(FileError, match="holds no canonicalizer"):
        canon.load_canonicalizer(tmp_path / "nowhere")
    other = replace(fitted.canonicalizer, energy=canon.Custom(lambda _, views: views.sum((1, 2, 3))))
    with pytest.raises(BadArrayError, match="keeps what fit trains"):
        canon.save_canonicalizer(tmp_path, other, build, {})


@pytest.mark.parametrize(
    ("name", "wanted"), [("c4", "C4"), ("D4", "D4"), ("so2", "SO(2)/8"), ("so2/16", "SO(2)/16"), ("o2/4", "O(2)/4")]
)
def test_groups_have_short_names(name: str, wanted: str):
    assert canon.group_named(name).name == wanted


@pytest.mark.parametrize("name", ["c0", "d", "so3", "c4/2", ""])
def test_other_names_are_refused(name: str):
    with pytest.raises(UnknownNameError, match="group"):
        canon.group_named(name)


def test_elements_are_named_by_what_they_do():
    assert canon.element_names(canon.dihedral(4))[:6] == ["0°", "90°", "180°", "270°", "mirrored, 0°", "mirrored, 90°"]
    assert canon.element_names(canon.so3("tetrahedral"))[1] == "element 1"
    group = canon.cyclic(8)
    np.testing.assert_allclose(canon.turns_of(group.matrices).degrees, 45 * np.arange(8), atol=1e-9)


def test_energies_of_posed_images_are_put_back_into_the_order_of_the_images_as_they_came(digits: np.ndarray):
    canonicalizer = canon.untrained(KEY, digits.shape[1:], canon.dihedral(4), widths=(4,), num_outputs=8)
    group, x = canonicalizer.group, digits[:8]
    turned = canon.Images().act(group, group.elements(np.arange(8), np.float32), x)
    found = as_before(group, np.arange(8), canonicalizer(turned).energies)
    np.testing.assert_allclose(found, canonicalizer(x).energies, atol=1e-6)
    assert not np.allclose(canonicalizer(turned).energies, found)
