"""The score is the mean cosine of what a NumPy twin encodes, ignores what it claims to ignore, and compiles once."""

from dataclasses import replace

import contrasim_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import oracles_contrasim as oracles
import pytest

from repsim_jax import similarity
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.losses import supervised_contrastive
from repsim_jax.similarity.contrasim import ContraSim, encode_layers, example_scores, score, score_pairs
from repsim_jax.similarity.contrasim.encoder import encode, init
from repsim_jax.similarity.contrasim.objectives import set_scores
from repsim_jax.similarity.contrasim.scoring import _encode

N, K, D = 20, 16, 12


def rows(seed: int = 0, n: int = N, d: int = D) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def untrained(**changes) -> ContraSim:
    options = cases.options(**{"residual": False, **changes})
    inputs = K * options.num_metrics if options.input == "relative" else D
    outputs = inputs if options.residual else options.width
    return ContraSim({"trunk": init(jax.random.key(1), (inputs, *options.hidden, outputs))}, options, {})


def anchored(measure: ContraSim, x, y, a=None, b=None) -> float:
    return float(
        score(measure, x, y, anchors_x=rows(8, K) if a is None else a, anchors_y=rows(9, K) if b is None else b)
    )


def test_weights_start_uniform_within_one_over_root_of_the_inputs():
    layers = init(jax.random.key(0), (64, 200, 50))
    assert [layer["weight"].shape for layer in layers] == [(64, 200), (200, 50)]
    for layer, inputs in zip(layers, (64, 200), strict=True):
        bound = inputs**-0.5
        for values in (np.asarray(layer["weight"]), np.asarray(layer["bias"])):
            assert np.abs(values).max() <= bound
            np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=0.2)
        assert np.abs(layer["weight"]).max() > 0.99 * bound


def test_the_papers_map_has_as_many_parameters_as_the_released_one():
    leaves = jax.tree.leaves(init(jax.random.key(0), (768, 512, 256, 128)))
    assert sum(leaf.size for leaf in leaves) == 557_952


@pytest.mark.parametrize("residual", [False, True])
def test_the_map_is_its_twin(residual: bool):
    trunk = init(jax.random.key(2), (D, 16, D if residual else 8))
    found = np.asarray(encode(trunk, rows(), residual=residual))
    np.testing.assert_allclose(found, oracles.encode(trunk, rows(), residual), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_a_row_that_the_network_sends_to_zero_stays_zero_with_a_finite_gradient():
    trunk = jax.tree.map(jnp.zeros_like, init(jax.random.key(0), (D, 16, 8)))
    assert not np.asarray(encode(trunk, rows())).any()
    gradient = jax.grad(lambda t: encode(t, rows()).sum())(trunk)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("similarity_kind", ["dot", "distance"])
def test_the_score_is_the_mean_over_rows(similarity_kind: str):
    measure = untrained(input="raw", similarity=similarity_kind)
    z, other = (oracles.encode(measure.params["trunk"], x) for x in (rows(0), rows(1)))
    np.testing.assert_allclose(score(measure, rows(0), rows(1)), oracles.score(z, other, similarity_kind), atol=2e-5)
    np.testing.assert_allclose(score(measure, rows(0), rows(0)), 1, atol=1e-3)


@pytest.mark.parametrize("metric", ["plain", "whitened", "both"])
def test_the_score_of_relative_input_is_its_twin(metric: str):
    measure = untrained(metric=metric)
    kinds = {"plain": (False,), "whitened": (True,), "both": (False, True)}[metric]
    z, other = (
        oracles.encode(measure.params["trunk"], np.hstack([oracles.relative(x, a, whiten) for whiten in kinds]))
        for x, a in ((rows(0), rows(8, K)), (rows(1, d=30), rows(9, K, 30)))
    )
    found = anchored(measure, rows(0), rows(1, d=30), b=rows(9, K, 30))
    np.testing.assert_allclose(found, oracles.score(z, other), atol=1e-5)


def test_deep_cka_is_the_registered_cka_of_what_is_encoded():
    measure = untrained(input="raw", objective="deep_cka")
    z, other = (np.asarray(encode(measure.params["trunk"], x)) for x in (rows(0), rows(1)))
    np.testing.assert_allclose(score(measure, rows(0), rows(1)), similarity.linear_cka(z, other), atol=1e-5)
    np.testing.assert_allclose(score(measure, rows(0), rows(0)), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["raw", "relative", "projected"])
def test_all_pairs_are_the_scores_one_by_one(measures, kind: str):
    measure = measures(kind)
    sides = cases.pairs() if kind == "projected" else cases.networks(2)
    first, second = sides.values()
    chosen = [[side.read(layer) for layer in side.names] for side in (first, second)]
    more = [[{}] * len(side.names) for side in (first, second)]
    if kind == "relative":
        more = [[{"anchors": cases.of(s, layer, measure.anchor_ids)} for layer in s.names] for s in (first, second)]
    if kind == "projected":
        more = [[{"source": (s.name, layer)} for layer in s.names] for s in (first, second)]
    word = {"relative": "anchors", "projected": "source"}.get(kind)
    plural = {"relative": "anchors", "projected": "sources"}.get(kind)
    together = {} if word is None else {
        f"{plural}_{side}": [one[word] for one in how] for side, how in zip("xy", more, strict=True)
    }  # fmt: skip
    table = np.asarray(score_pairs(measure, *chosen, **together))
    assert table.shape == (len(first.names), len(second.names))
    for i, x in enumerate(chosen[0]):
        for j, y in enumerate(chosen[1]):
            alone = {} if word is None else {f"{word}_x": more[0][i][word], f"{word}_y": more[1][j][word]}
            one = score(measure, x, y, **alone)
            np.testing.assert_allclose(table[i, j], one, atol=1e-5)
            back = {f"{key[:-1]}{'y' if key[-1] == 'x' else 'x'}": value for key, value in alone.items()}
            np.testing.assert_allclose(score(measure, y, x, **back), one, atol=1e-6)


def test_layers_of_several_widths_keep_their_order():
    measure = untrained()
    layers = [rows(i, d=d) for i, d in enumerate((12, 30, 12, 5))]
    anchors = [rows(8 + i, K, d) for i, d in enumerate((12, 30, 12, 5))]
    found = np.asarray(encode_layers(measure, layers, anchors=anchors))
    for i in range(4):
        alone = encode_layers(measure, layers[i : i + 1], anchors=anchors[i : i + 1])[0]
        np.testing.assert_allclose(found[i], alone, atol=1e-6)


def test_the_loss_of_layers_acts_on_the_score_itself():
    """Released code: SupCon on flattened blocks of Frobenius norm one, which is the loss of the scores."""
    z = np.random.default_rng(0).standard_normal((6, N, 8))
    z = (z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32)
    classes = np.array([0, 1, 2, 0, 1, 2])
    flat = z.reshape(6, -1) / np.linalg.norm(z.reshape(6, -1), axis=1, keepdims=True)
    same = (classes[:, None] == classes).astype(np.float32)
    expected = oracles.supervised_contrastive((flat @ flat.T).astype(float), same, 0.07)
    scores = set_scores(jnp.asarray(z), jnp.asarray(z), options=cases.options())
    np.testing.assert_allclose(supervised_contrastive(scores, jnp.asarray(same), temperature=0.07), expected, rtol=1e-4)


def _moved(x: np.ndarray, a: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    generator, d = np.random.default_rng(3), x.shape[1]
    both = np.concatenate([x, a])
    both = {
        "rotated": lambda: both @ cases.isometry(generator, d, d),
        "shifted": lambda: both + 10 * generator.standard_normal(d),
        "scaled": lambda: 37.0 * both,
        "permuted": lambda: both[:, generator.permutation(d)],
        "embedded in more features": lambda: both @ cases.isometry(generator, d, 40),
    }[how]().astype(np.float32)
    return both[: len(x)], both[len(x) :]


@pytest.mark.parametrize("metric", ["plain", "whitened", "both"])
@pytest.mark.parametrize("how", ["rotated", "shifted", "scaled", "permuted", "embedded in more features"])
def test_relative_input_ignores_the_basis_place_and_size_of_a_layer(how: str, metric: str):
    measure = untrained(metric=metric)
    # The ridge counts directions: with fewer features than anchors it would be another one in more features.
    d = D if how != "embedded in more features" else K
    start = rows(0, d=d), rows(8, K, d)
    x, a = _moved(*start, how)
    expected = anchored(measure, start[0], rows(1), start[1])
    np.testing.assert_allclose(anchored(measure, x, rows(1), a), expected, atol=2e-5)


@pytest.mark.parametrize("how", ["rotated", "shifted", "scaled", "permuted"])
def test_raw_input_ignores_none_of_them(how: str):
    """Otherwise the tests above would pass for a measure that sees nothing."""
    measure = untrained(input="raw")
    x = _moved(rows(0), rows(8, K), how)[0]
    assert abs(float(score(measure, x, rows(1))) - float(score(measure, rows(0), rows(1)))) > 1e-3


@pytest.mark.parametrize("kind", ["raw", "relative"])
@pytest.mark.parametrize("dtype", ["float64", "int64", "float16", "jax"])
def test_the_dtype_of_the_same_numbers_changes_nothing(kind: str, dtype: str):
    """Float64 and integers must not be shifted or scaled on their way: anchors and rows come apart otherwise."""
    measure = untrained(input=kind)
    values = [np.round(4 * one).astype(np.float32) for one in (rows(0) + 3, rows(1), rows(8, K) + 3, rows(9, K))]
    cast = [jnp.asarray(one) if dtype == "jax" else one.astype(dtype) for one in values]
    found, expected = (
        score(measure, x, y, **({"anchors_x": a, "anchors_y": b} if kind == "relative" else {}))
        for x, y, a, b in (cast, values)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_program_per_shape_and_none_per_number(measures):
    measure = measures("relative")
    other = replace(measure, params=jax.tree.map(lambda leaf: 0.5 * leaf, measure.params))
    anchored(measure, rows(0), rows(1))
    before = _encode._cache_size()
    for seed, one in enumerate((measure, other)):
        anchored(one, rows(seed), rows(seed + 5))
    assert _encode._cache_size() == before
    anchored(measure, rows(0, n=N + 1), rows(1, n=N + 1))
    assert _encode._cache_size() == before + 1


def test_scores_stay_within_their_range(measures):
    x = rows(0)
    assert -1 <= anchored(measures("relative"), 1e6 * x, -x) <= 1
    np.testing.assert_allclose(anchored(measures("relative"), x, x, rows(8, K), rows(8, K)), 1, atol=1e-5)


BAD = [
    (lambda x: x[:-1], "same n examples: got 20 rows of x and 19 of y"),
    (lambda x: np.where(np.arange(N)[:, None] == 3, np.nan, x), "got NaN in y: 1 of 20 rows"),
    (lambda x: np.full_like(x, 2), "undefined for y"),
    (lambda x: x[:, :5], "fitted on layers of 12 features, got y"),
    (lambda x: x[:, :, None], "works on"),
    (lambda x: x > 0, "dtype bool"),
    (lambda x: x.astype(object), "dtype object"),
    (lambda x: x.astype(np.float64) + 1e9, "lose the variation"),
    (lambda x: x.astype(np.float64) * 1e200, "lose the variation"),
    (lambda x: np.ma.masked_less(x, 0), "masked array"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_scored_is_refused(measures, change, message: str):
    with pytest.raises(BadArrayError, match=message):
        score(measures("raw"), rows(0), change(rows(1)))


def test_anchors_that_are_missing_or_do_not_fit_are_refused(measures):
    measure = measures("relative")
    with pytest.raises(BadArrayError, match="needs the measure's 16 anchor examples in every layer"):
        score(measure, rows(0), rows(1))
    for wrong in (rows(8, K - 1), rows(8, K, D + 1)):
        with pytest.raises(BadArrayError, match="16 anchors with the width of their layer"):
            anchored(measure, rows(0), rows(1), wrong)
    with pytest.raises(BadArrayError, match="NaN in the anchors of y"):
        anchored(measure, rows(0), rows(1), b=np.full((K, D), np.nan, np.float32))


def test_projected_input_needs_a_source_that_was_fitted(measures):
    measure, x = measures("projected"), rows(0)
    with pytest.raises(BadArrayError, match=r"needs \(source, layer\) of every layer"):
        score(measure, x, x)
    with pytest.raises(UnknownNameError, match="no fitted source is called 'side_9'"):
        score(measure, x, x, source_x=("side_9", "x"), source_y=("side_0", "x"))
    with pytest.raises(UnknownNameError, match="no fitted layer of side_0 is called 'z'"):
        score(measure, x, x, source_x=("side_0", "z"), source_y=("side_0", "x"))
    with pytest.raises(BadArrayError, match="fitted on side_1 'x' with 20 features"):
        score(measure, x, x, source_x=("side_0", "x"), source_y=("side_1", "x"))


def test_nothing_to_score_is_refused(measures):
    with pytest.raises(BadArrayError, match="at least one layer, got none"):
        score_pairs(measures("raw"), [], [rows()])


@pytest.mark.parametrize("similarity", ["dot", "distance"])
def test_scores_of_single_examples_are_those_of_the_encoded_rows_and_average_to_the_score(similarity: str):
    measure = untrained(input="raw", similarity=similarity)
    xs, ys = [rows(1), rows(2)], [rows(3), rows(2)]
    found = np.asarray(example_scores(measure, xs, ys))
    z, other = (np.asarray(encode_layers(measure, side), float) for side in (xs, ys))
    products = (z * other).sum(-1)
    wanted = products if similarity == "dot" else 1 - np.linalg.norm(z - other, axis=-1)
    # Where rows agree, a distance is the root of what rounding leaves.
    np.testing.assert_allclose(found[0], wanted[0], atol=2e-6)
    np.testing.assert_allclose(found[1], 1, atol=2e-3 if similarity == "distance" else 2e-6)
    np.testing.assert_allclose(found.mean(1)[0], score_pairs(measure, xs, ys)[0, 0], atol=2e-6)


def test_what_has_no_scores_of_single_examples_says_so():
    with pytest.raises(BadArrayError, match="compares sets of examples"):
        example_scores(untrained(input="raw", objective="deep_cka"), [rows()], [rows()])
    with pytest.raises(BadArrayError, match="got 2 layers and 1"):
        example_scores(untrained(input="raw"), [rows(), rows()], [rows()])
    with pytest.raises(BadArrayError, match="got 20 rows of x and 19 of y"):
        example_scores(untrained(input="raw"), [rows()], [rows()[:19]])
