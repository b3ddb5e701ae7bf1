"""PCA, a kernel or a network: the rule on planted scores, the learners on planted data, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from repsim_jax.errors import BadArrayError, DivergedError, UnknownNameError
from repsim_jax.theory import Recipe, advice, advise, contrastive_pca, learners, pair_contrast, random_features
from repsim_jax.theory.learners import Split, fitted, makers
from repsim_jax.theory.pca import procrustes_error
from repsim_jax.theory.probes import Embedded, ridge_probe, scores
from repsim_jax.theory.verdicts import CHANCE, interval, judge

GENERATOR = np.random.default_rng(0)
KINDS = {"PCA": "pca", "kernel": "kernel", "network": "network"}
SMALL = Recipe(num_components=4, widths=(16,), num_features=128, num_steps=60, batch_size=32, horizon=10.0)
NOISE = np.array([-1.0, 0.0, 1.0, 0.5, -0.5])


def judged(pca: float, kernel: float, network: float, *, spread: float = 1e-4, **options: float):
    """The rule on scores with these means, whose differences vary by so much between splits."""
    planted = {
        "PCA": pca + 0.01 * NOISE,
        "kernel": kernel + (0.01 + spread) * NOISE,
        "network": network + (0.01 - spread) * NOISE,
    }
    return judge(planted, KINDS, ratio=0.5, **options)


@pytest.mark.parametrize(
    ("means", "verdict", "reference"),
    [
        ((0.90, 0.90, 0.90), "pca", "PCA"),
        ((0.90, 0.91, 0.91), "pca", "PCA"),  # better, but not by what matters
        ((0.90, 0.80, 0.70), "pca", "PCA"),
        ((0.80, 0.90, 0.90), "kernel", "kernel"),
        ((0.80, 0.90, 0.70), "kernel", "kernel"),
        ((0.80, 0.84, 0.90), "network", "network"),
        ((0.80, 0.80, 0.90), "network", "network"),
    ],
)
def test_the_cheapest_kind_that_nothing_beats_by_what_matters_is_the_verdict(means, verdict, reference):
    found = judged(*means)
    assert (found.verdict, found.reference) == (verdict, reference)


def test_what_varies_too_much_between_splits_is_undecided():
    assert judged(0.80, 0.80, 0.85, spread=0.1).verdict == "undecided"
    assert judged(0.80, 0.80, 0.85, spread=0.001).verdict == "network"
    between = judged(0.70, 0.85, 0.86, spread=0.02)
    assert (between.verdict, between.reference) == ("undecided", "kernel")


def test_the_margin_is_the_users():
    assert judged(0.80, 0.80, 0.83, margin=0.02).verdict == "network"
    assert judged(0.80, 0.80, 0.83, margin=0.05).verdict == "pca"


def test_scores_at_chance_decide_nothing():
    found = judged(0.50, 0.50, 0.50, chance=0.5)
    assert (found.verdict, found.reference) == ("undecided", CHANCE)
    assert {one.reference for one in found.gains} == {CHANCE}
    assert judged(0.50, 0.50, 0.60, chance=0.5).verdict == "network"


def test_lower_bounds_hold_for_all_learners_together_and_upper_ones_for_each():
    kinds = {"PCA": "pca", **{f"kernel {i}": "kernel" for i in range(9)}}
    planted = {name: NOISE * (name != "PCA") for name in kinds}
    gain = judge(planted, kinds, ratio=0.5, chance=-9).gains[0]
    spread = NOISE.std(ddof=1) * np.sqrt(1 / 5 + 0.5)
    np.testing.assert_allclose(gain.mean - gain.low, stats.t.ppf(1 - 0.05 / 9, 4) * spread)
    np.testing.assert_allclose(gain.high - gain.mean, stats.t.ppf(0.95, 4) * spread)


def test_equal_learners_are_seldom_said_to_pay():
    # Scores that share half of their noise between splits, as splits of the same examples do.
    generator, wrong = np.random.default_rng(5), 0
    for _ in range(400):
        shared = generator.normal(size=6) * np.sqrt(0.5)
        planted = {f"kernel {i}": generator.normal(size=8) + shared[i] for i in range(5)}
        found = judge({"PCA": np.zeros(8), **planted}, {"PCA": "pca", **dict.fromkeys(planted, "kernel")}, ratio=0.5,
                      margin=1e-9, chance=-99.0)  # fmt: skip
        wrong += found.verdict == "kernel"
    assert wrong / 400 <= 0.07  # 0.05 and twice its standard error


def test_the_interval_is_the_t_interval_where_splits_share_nothing_and_wider_where_they_do():
    plain = stats.t.interval(0.95, 4, NOISE.mean(), stats.sem(NOISE))
    np.testing.assert_allclose(interval(NOISE, ratio=0.0), plain)
    low, high = interval(NOISE, ratio=0.5)
    np.testing.assert_allclose((high - low) / (plain[1] - plain[0]), np.sqrt((0.2 + 0.5) / 0.2))


@pytest.mark.parametrize(
    ("called", "message"),
    [
        (lambda: interval(NOISE[:1], ratio=0.5), "two of them or more"),
        (lambda: judge({"a": NOISE}, {"a": "kernel"}, ratio=0.5), "of kind 'pca'"),
        (lambda: judged(0.5, 0.5, 0.5, margin=0.0), "margin > 0"),
        (lambda: ridge_probe(np.eye(3), np.zeros(3), np.eye(3)), "two classes"),
        (lambda: ridge_probe(np.ones((4, 2)), np.arange(4) % 2, np.eye(2)), "that vary"),
    ],
)
def test_a_judgement_without_grounds_is_refused(called, message):
    with pytest.raises(BadArrayError, match=message):
        called()


def test_the_ridge_probe_is_ridge_regression_at_the_least_risk():
    x, labels, new = GENERATOR.normal(size=(40, 3)), np.arange(40) % 3, GENERATOR.normal(size=(25, 3))
    x[:, 0] += 2 * (labels == 1)
    centered, y = x - x.mean(0), np.eye(3)[labels] - np.eye(3)[labels].mean(0)
    risks, weights = [], []
    for ridge in np.logspace(-6, 1, 15) * np.linalg.norm(centered, 2) ** 2:
        inverse = np.linalg.inv(centered.T @ centered + ridge * np.eye(3))
        hat = centered @ inverse @ centered.T
        risks.append(np.square(y - hat @ y).sum() / (40 - 1 - np.trace(hat)) ** 2)
        weights.append(inverse @ centered.T @ y)
    best = int(np.argmin(risks))
    wanted = ((new - x.mean(0)) @ weights[best] + np.eye(3)[labels].mean(0)).argmax(1)
    np.testing.assert_array_equal(ridge_probe(x, labels, new), wanted)
    assert 0 < best < 14, "the test needs a ridge that is chosen"


def test_metrics_have_their_values_on_embeddings_made_for_them():
    axes = np.concatenate([np.eye(4), -np.eye(4)])
    one = scores(Embedded(axes, axes, axes), np.arange(8) % 4, np.arange(8) % 4)
    assert (one["retrieval"], one["alignment"], one["nearest"], one["probe"]) == (1.0, 0.0, 1.0, 0.25)
    # Of seven others six are orthogonal (squared distance 2) and one is opposite (4).
    np.testing.assert_allclose(one["spread"], -np.log((6 * np.exp(-4) + np.exp(-8)) / 7))
    opposite = scores(Embedded(axes, axes, -axes), None, None)
    assert (opposite["retrieval"], opposite["alignment"]) == (0.0, 4.0)
    assert set(opposite) == {"retrieval", "alignment", "spread"}


def split(n: int = 60, d: int = 6, v: int = 1) -> Split:
    x = GENERATOR.normal(size=(2 * n, d)).astype(np.float32) * np.linspace(2, 0.2, d, dtype=np.float32)
    noisy = x[:, None] + 0.3 * GENERATOR.normal(size=(2 * n, v, d)).astype(np.float32)
    return Split(x[:n], noisy[:n], x[n:], noisy[n:, 0])


def test_the_closed_forms_are_what_they_are_called():
    given = split()
    made = {one.name: fitted(jax.random.key(1), one, given, SMALL) for one in makers(SMALL)[:3]}
    assert list(made) == ["PCA", "kernel PCA", "contrastive PCA"]
    _, _, v = np.linalg.svd(given.x - given.x.mean(0), full_matrices=False)
    wanted = (given.test - given.x.mean(0)) @ v[:4].T
    assert procrustes_error(made["PCA"].embedded.test, wanted) < 1e-5
    # The dual of the closed form, on the same random features.
    both = jnp.asarray(np.concatenate([given.x, given.views[:, 0], given.test]))
    features = np.asarray(random_features(jax.random.key(1), both, num_features=128), float)
    dual = contrastive_pca(features[:120] @ features[:120].T, 4, contrast=pair_contrast(60))
    found = made["contrastive PCA"].embedded.test
    assert procrustes_error(found, dual.embed(features[120:] @ features[:120].T)) < 1e-3


@pytest.mark.slow
def test_what_is_trained_by_cosines_gives_directions_and_networks_leave_their_kernel():
    given = split(v=2)
    kernel, network = (fitted(jax.random.key(1), one, given, SMALL) for one in makers(SMALL)[3:])
    for made in (kernel, network):
        np.testing.assert_allclose(np.linalg.norm(made.embedded.test, axis=1), 1, rtol=1e-5)
        aligned = scores(made.embedded, None, None)
        assert aligned["retrieval"] > 0.2, "views of 60 examples find them by chance in 1 of 60 cases"
    assert kernel.motion is None
    assert network.motion is not None
    np.testing.assert_array_equal(network.motion.steps, [50, 60])
    assert (network.motion.change > 0.01).all()


def test_pca_has_no_more_dimensions_than_the_data():
    given = split(d=3)
    assert fitted(jax.random.key(0), makers(SMALL)[0], given, SMALL).embedded.test.shape == (60, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activation": "tanh"}, UnknownNameError, "closed form"),
        ({"num_components": 1}, BadArrayError, "num_components >= 2"),
        ({"num_steps": 0}, BadArrayError, "num_steps >= 1"),
        ({"num_features": 32}, BadArrayError, "fewer components than random features"),
        ({"learning_rate": 0.0}, BadArrayError, "learning_rate > 0"),
        ({"widths": ()}, BadArrayError, "widths"),
        ({"widths": (1,)}, BadArrayError, "widths"),
    ],
)
def test_recipes_that_make_nothing_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Recipe(**options)


def rings(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Two circles, one in the other, in six dimensions."""
    radius, angle = np.repeat([1.0, 2.0], n // 2), GENERATOR.uniform(0, 2 * np.pi, n)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) + 0.1 * GENERATOR.normal(size=(n, 2))
    return np.concatenate([x, 0.2 * GENERATOR.normal(size=(n, 4))], 1), (radius > 1.5).astype(int)


@pytest.mark.slow
def test_advice_tells_what_it_rests_on_and_repeats_itself():
    x, labels = rings()
    told: list[tuple[str, int, int]] = []
    options = {"labels": labels, "num_train": 100, "num_test": 60, "num_seeds": 3, "recipe": SMALL}
    found = advise(jax.random.key(0), x, on_progress=lambda *one: told.append(one), **options)
    assert told[0] == ("PCA, seed 0", 0, 15)
    assert told[-1] == ("done", 15, 15)
    assert (found.num_train, found.num_test, found.num_features, found.metric) == (100, 60, 6, "probe")
    assert found.settings["chance"] == 0.5
    assert all(one.scores["probe"].shape == one.seconds.shape == (3,) for one in found.learners)
    assert [len(one.motion) for one in found.learners] == [0, 0, 0, 0, 3]
    cka = found.alike["linear_cka_unbiased"]
    np.testing.assert_allclose(np.diagonal(cka), 1, atol=1e-5)
    np.testing.assert_allclose(cka, cka.T, atol=1e-5)
    again = advise(jax.random.key(0), x, **options)
    for one, other in zip(found.learners, again.learners, strict=True):
        np.testing.assert_array_equal(one.scores["probe"], other.scores["probe"])
    unlabeled = advise(jax.random.key(0), x, views=x + 0.1, **{**options, "labels": None})
    assert (unlabeled.metric, unlabeled.settings["views"]) == ("retrieval", "given, one of each example")


@pytest.mark.slow
def test_a_network_that_diverges_is_left_out_and_told_and_all_of_them_end_the_advice(monkeypatch):
    def diverging(*_):
        raise DivergedError("the network of width 2 has NaN weights.")

    x, labels = rings()
    options = {"labels": labels, "num_train": 100, "num_test": 60, "num_seeds": 3, "recipe": SMALL}
    whole = advise(jax.random.key(0), x, **options)
    broken = learners.Maker("network, width 2", "network", diverging)
    monkeypatch.setattr(advice, "makers", lambda recipe: (*makers(recipe), broken))
    found = advise(jax.random.key(0), x, **options)
    assert found.settings["left_out"] == {"network, width 2": "the network of width 2 has NaN weights."}
    for one, other in zip(whole.learners, found.learners, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.scores["probe"], other.scores["probe"])
    monkeypatch.setattr(advice, "makers", lambda recipe: (*makers(recipe)[:-1], broken))
    with pytest.raises(DivergedError, match="the training of each diverged: the network of width 2"):
        advise(jax.random.key(0), x, **options)


X = GENERATOR.normal(size=(60, 5))


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (X[:20], {}, "30 examples or more"),
        (X[:, 0], {}, "one a row"),
        (np.where(np.arange(60)[:, None] == 7, np.nan, X), {}, "row 7 holds NaN"),
        (np.ones((60, 5)), {}, "are copies"),
        (X, {"labels": np.zeros(59)}, "one label for each of 60"),
        (X, {"labels": np.zeros(60)}, "two classes or more.* got 1 classes"),
        (X, {"labels": np.arange(60)}, "got 60 classes"),
        (X, {"views": X[:59]}, "another view of each"),
        (X, {"views": X}, "differ from their examples"),
        (X, {"views": np.full_like(X, np.inf)}, "finite views"),
        (X, {"views": lambda key, rows: rows[:3]}, "another view of each"),
        (X, {"view_noise": 0.0}, "view_noise > 0"),
        (X, {"num_seeds": 2}, "three seeds"),
        (X, {"num_test": 1}, "at least 2"),
        (X, {"num_train": 4}, "more training examples than components"),
        (X, {"margin": -1.0}, "margin > 0"),
    ],
)
def test_data_that_cannot_be_advised_on_are_refused(data, options, message):
    with pytest.raises(BadArrayError, match=message):
        advise(jax.random.key(0), data, recipe=SMALL, **options)


@pytest.mark.slow
def test_where_classes_are_the_largest_directions_pca_is_enough():
    centers = np.random.default_rng(1).normal(size=(5, 20))
    labels = np.arange(1200) % 5
    x = centers[labels] + 0.7 * np.random.default_rng(2).normal(size=(1200, 20))
    found = advise(jax.random.key(0), x, labels=labels)
    assert found.verdict == "pca", found.reason
    assert found.reason.startswith("Start from PCA")


@pytest.mark.slow
def test_where_classes_are_rings_a_kernel_is_enough():
    x, labels = rings(1200)
    found = advise(jax.random.key(0), x, labels=labels)
    assert found.verdict == "kernel", found.reason
    assert found.learners[0].scores["probe"].mean() < 0.6
    assert found.reason.startswith("A kernel does it")


@pytest.mark.slow
def test_where_views_share_the_product_of_two_of_forty_features_the_network_pays():
    generator = np.random.default_rng(1)
    signs = generator.choice([-1.0, 1.0], size=(1200, 2))
    x = np.concatenate([signs, generator.normal(size=(1200, 38))], 1)

    def views(key: jax.Array, rows: np.ndarray) -> np.ndarray:
        """Draws anew all but the product of the first two features."""
        key_noise, key_flip = jax.random.split(key)
        noise = np.asarray(jax.random.normal(key_noise, rows.shape))
        flips = np.asarray(jax.random.rademacher(key_flip, (len(rows), 1)))
        return np.concatenate([rows[:, :2] * flips, noise[:, 2:]], 1)

    labels = (signs.prod(1) > 0).astype(int)
    found = advise(jax.random.key(0), x, labels=labels, views=views)
    assert found.verdict == "network", found.reason
    assert all(one.scores["probe"].mean() < 0.65 for one in found.learners if one.kind != "network")
    assert "changes its tangent kernel by" in found.reason
    # The views share nothing by which an example could be found among those of its class.
    unlabeled = advise(jax.random.key(0), x, views=views)
    assert unlabeled.verdict == "undecided", unlabeled.reason
    assert "no learner is better than chance" in unlabeled.reason


def test_a_flow_that_cannot_go_on_is_followed_as_far_as_it_goes():
    start = GENERATOR.normal(size=(8, 2)).astype(np.float32)
    short = Recipe(num_components=2, num_features=16, horizon=1.0)
    whole, stuck = learners._flow(np.eye(8), start, short), learners._flow(1e9 * np.eye(8), start, short)
    assert whole is not None
    np.testing.assert_allclose(whole.times[-1], 1.0)
    assert stuck is None or stuck.times[-1] < 1.0
