"""A pruning curve trains once on each selection, in pairs, and goes on from what is kept."""

from typing import Any

import jax
import numpy as np
import pytest

from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.influence.curation import Arm, probe_accuracy, pruning_curve, views_found

KEY = jax.random.key(0)
N = 20
ROWS = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
OWN = np.arange(N) / N
ARMS = (Arm("random", "random"), Arm("lowest go", "influence"), Arm("highest go", "influence", "easy"))


def test_each_way_keeps_what_it_says_and_trainings_are_paired():
    seen: list[tuple[int, np.ndarray]] = []

    def retrain(key: jax.Array, rows: np.ndarray) -> float:
        seen.append((int(jax.random.key_data(key)[-1]), rows))
        return float(OWN[rows].mean())

    keys = list(jax.random.split(KEY, 2))
    found = pruning_curve(KEY, keys, ROWS, retrain, drops=(0.25, 0.5), arms=ARMS, self_influence=OWN)
    assert found.names == ("random", "lowest go", "highest go")
    assert found.scores.shape == (3, 2, 2)
    assert found.whole == pytest.approx(OWN.mean())
    assert found.scores[1, 1] == pytest.approx(OWN[N // 2 :].mean())
    assert found.scores[2, 0] == pytest.approx(OWN[: 3 * N // 4].mean())
    assert len(seen) == 2 * (1 + 3 * 2)
    assert len({key for key, _ in seen}) == 2


def test_what_was_kept_is_not_trained_again():
    known: dict[str, Any] = {}

    def kept(name: str, compute: Any) -> Any:
        if name not in known:
            known[name] = compute()
        return known[name]

    def never(key: jax.Array, rows: np.ndarray) -> float:
        raise AssertionError("trained again")

    given: dict[str, Any] = {"drops": (0.5,), "arms": ARMS[:1], "kept": kept}
    first = pruning_curve(KEY, [KEY], ROWS, lambda _, rows: float(len(rows)), **given)
    again = pruning_curve(KEY, [KEY], ROWS, never, **given)
    assert np.array_equal(first.scores, again.scores)
    assert first.scores.tolist() == [[[10.0]]]
    assert all(name.replace("-", "").isalnum() for name in known)


def test_scores_of_models_are_shares():
    labels = np.arange(N) % 2
    apart = ROWS + 20 * labels[:, None]
    assert probe_accuracy(apart, labels, apart[:6], labels[:6]) == 1
    assert probe_accuracy(apart, labels, apart[:6], 1 - labels[:6]) == 0
    assert views_found(ROWS, 3 * ROWS) == 1
    assert views_found(ROWS, np.roll(ROWS, 1, axis=0)) == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pruning_curve(KEY, [KEY], ROWS, lambda *_: 0.0, drops=(1.0,)), BadArrayError, r"shares in \(0, 1\)"),
        (
            lambda: pruning_curve(KEY, [KEY], ROWS, lambda *_: 0.0, arms=(Arm("x", "sass"),)),  # pyright: ignore
            UnknownNameError,
            "'sas'",
        ),
        (lambda: probe_accuracy(ROWS, np.zeros(N), ROWS, np.zeros(N)), BadArrayError, "two classes"),
    ],
)
def test_what_has_no_meaning_is_refused(call: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()
