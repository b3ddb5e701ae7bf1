"""compat="equiadapt" gives what equiadapt 0.1.2 made, which benchmarks/canonicalization_parity.py stored."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from canonicalization_cases import KEY, photographs

from repsim_jax import canonicalization as canon
from repsim_jax.errors import BadArrayError, UnknownNameError

STORED = Path(__file__).with_name("equiadapt_scores.npz")
GROUPS = {"C4": canon.cyclic(4), "C8": canon.cyclic(8), "D4": canon.dihedral(4)}
SIZES = {"color": 32, "gray": 16}
THEIRS = canon.Views(8, compat="equiadapt")


def network(params: dict[str, jax.Array], rest: Any, x: jax.Array, num_layers: int) -> jax.Array:
    """Its ConvNetwork in evaluation, by names of torch."""
    del rest

    def normed(name: str, x: jax.Array) -> jax.Array:
        mean, variance, weight, bias = (
            params[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / jnp.sqrt(variance + 1e-5) * weight + bias

    for i in range(num_layers):
        kernel, pad = params[f"enc_network.{3 * i}.weight"].transpose(2, 3, 1, 0), i % 3 // 2
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), ((pad, pad),) * 2, dimension_numbers=dimensions)
        x = normed(f"enc_network.{3 * i + 1}", x + params[f"enc_network.{3 * i}.bias"])
        x = x * jax.scipy.stats.norm.cdf(x)
    x = jax.nn.relu(normed("final_fc.0", x.transpose(0, 3, 1, 2).reshape(len(x), -1)))
    return x @ params["final_fc.3.weight"].T + params["final_fc.3.bias"]


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(STORED) as held:
        return {name: held[name] for name in held.files}


def canonicalizer(stored: dict[str, np.ndarray], kind: str, group: canon.Group) -> canon.Canonicalizer:
    own = {name.removeprefix(f"{kind}_"): jnp.asarray(value) for name, value in stored.items() if name.startswith(kind)}
    params = {name: value for name, value in own.items() if "." in name}
    energy = canon.Reference(partial(network, num_layers=3 if kind == "color" else 2), params, (), own["reference"])
    return canon.Canonicalizer(group, energy, views=canon.Views(SIZES[kind], compat="equiadapt"))


@pytest.mark.parametrize(("kind", "name"), [("color", "C4"), ("color", "C8"), ("color", "D4"), ("gray", "C8")])
def test_views_orbits_scores_and_canonical_images_are_those_of_equiadapt(
    stored: dict[str, np.ndarray], kind: str, name: str
):
    group = GROUPS[name]
    ours, x = canonicalizer(stored, kind, group), jnp.asarray(stored[kind], jnp.float32) / 255
    theirs = {part: stored[f"{kind}_{name}_{part}"] for part in ("activations", "canonical", "orbit")}
    views = ours.views.reduced(x)
    np.testing.assert_allclose(views, stored[f"{kind}_views"], atol=1e-6)
    orbit = jax.jit(canon.equiadapt_orbit, static_argnums=0)(group, views[:1])
    np.testing.assert_allclose(orbit, theirs["orbit"], atol=2e-5)
    found = ours(x)
    np.testing.assert_allclose(-found.energies, theirs["activations"], atol=1e-5)
    assert np.ptp(theirs["activations"], axis=1).min() > 0.03
    np.testing.assert_array_equal(found.elements.index, theirs["activations"].argmax(-1))
    np.testing.assert_allclose(found.canonical[:2], theirs["canonical"], atol=2e-5)
    if name != "D4":
        restored = ours.action.act(group, found.elements, found.canonical)
        np.testing.assert_allclose(restored[:1], stored[f"{kind}_{name}_restored"], atol=2e-5)


def test_one_option_carries_it_through_untrained_fit_and_the_disk(tmp_path: Path):
    x, group = photographs(12), canon.cyclic(4)
    recipe = canon.Recipe(num_steps=2, batch_size=4, widths=(2,), num_outputs=4)
    fitted = canon.fit(KEY, x, group, objective=canon.PAPER, recipe=recipe, views=THEIRS).canonicalizer
    assert fitted.action == canon.EquiadaptImages()
    found = fitted(x)
    np.testing.assert_array_equal(found.canonical, canon.equiadapt_canonical(group, found.elements, jnp.asarray(x)))
    build = canon.Build("c4", (12, 12, 3), THEIRS, recipe.widths, recipe.num_outputs)
    canon.save_canonicalizer(tmp_path, fitted, build, {})
    again, _, _ = canon.load_canonicalizer(tmp_path)
    assert again.views == THEIRS
    np.testing.assert_array_equal(again(x).canonical, found.canonical)
    wrapped = canon.equivariant(lambda images: images, again, out_action=canon.Images())
    seen = canon.equivariant(lambda images: images, again)(x)
    np.testing.assert_allclose(seen.outputs, found.canonical, atol=1e-6)
    assert wrapped(x).outputs.shape == x.shape


def test_gray_images_keep_their_size_and_get_zeros_in_their_corners():
    gray = photographs(12)[..., :1] + 1
    assert THEIRS.shape(12, 12, 1) == (12, 12)
    orbit = np.asarray(canon.equiadapt_orbit(canon.cyclic(8), THEIRS.reduced(gray)))
    assert orbit.shape == (8, 4, 12, 12, 1)
    assert (orbit[1::2, :, 0, 0] == 0).all()
    assert (orbit[::2] >= 0.99).all()
    made = canon.untrained(KEY, (12, 12, 1), canon.cyclic(4), views=THEIRS, widths=(2,), num_outputs=4)
    assert made(gray).canonical.shape == gray.shape


def test_what_equiadapt_does_not_have_is_refused():
    make = partial(canon.untrained, KEY, (12, 12, 3), views=THEIRS, widths=(2,), num_outputs=4)
    with pytest.raises(BadArrayError, match="cyclic"):
        make(canon.so2(8))
    with pytest.raises(BadArrayError, match="cyclic"):
        canon.EquiadaptImages().check(canon.scalings(0.5, 2, 3), photographs(12))
    reflected = make(canon.dihedral(4))
    with pytest.raises(BadArrayError, match="cannot turn outputs back for D4"):
        canon.equivariant(lambda x: x, reflected, out_action=canon.Images())
    with pytest.raises(BadArrayError, match="cannot turn outputs back for D4"):
        reflected.action.act(reflected.group, reflected.group.elements([0]), photographs(12, 1))
    with pytest.raises(BadArrayError, match="whole orbits"):
        canon.Canonicalizer(canon.cyclic(8), None, views=THEIRS, search=canon.Search(coarse=canon.cyclic(4)))
    with pytest.raises(BadArrayError, match="there and back"):
        canon.fit(KEY, photographs(12), canon.cyclic(4), objective=canon.Objective(artifact_weight=1.0), views=THEIRS)
    with pytest.raises(BadArrayError, match="no mask"):
        canon.Views(size=None, compat="equiadapt")
    with pytest.raises(UnknownNameError, match="escnn"):
        canon.Views(compat="escnn")
