"""The training loop does what plain gradient descent in NumPy does, and refuses what it cannot do."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from repsim_jax.training import Standing, minimize, train

X = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5, 3.0], np.float32)


def loss(params, batch):
    return jnp.mean(jnp.square(batch[0] @ params - batch[1]))


def test_full_batches_are_gradient_descent_step_by_step():
    """A batch of all examples in any order has the same gradient, so the key cannot matter."""
    trained = train(
        jax.random.key(3), jnp.zeros(4), loss, (X, Y), optimizer=optax.sgd(0.1), num_steps=60, batch_size=32
    )
    weights, losses = np.zeros(4), []
    for _ in range(60):
        residual = X @ weights - Y
        losses.append(np.mean(residual**2))
        weights = weights - 0.1 * 2 * X.T @ residual / 32
    np.testing.assert_allclose(trained.params, weights, atol=1e-5)
    np.testing.assert_allclose(trained.losses, losses, rtol=1e-4, atol=1e-8)


def test_the_key_draws_the_batches():
    def run(seed):
        return train(
            jax.random.key(seed), jnp.zeros(4), loss, (X, Y), optimizer=optax.sgd(0.1), num_steps=10, batch_size=4
        ).params

    np.testing.assert_array_equal(run(0), run(0))
    assert not np.array_equal(run(0), run(1))


def test_progress_is_told_to_the_end():
    told = []
    options = {"optimizer": optax.sgd(0.1), "num_steps": 120, "batch_size": 8}
    train(jax.random.key(0), jnp.zeros(4), loss, (X, Y), on_progress=lambda *said: told.append(said), **options)
    assert told == [(50, 120), (100, 120), (120, 120)]


@pytest.mark.parametrize(("num_steps", "batch_size"), [(0, 4), (5, 0), (5, 33)])
def test_impossible_batches_are_refused(num_steps: int, batch_size: int):
    with pytest.raises(ValueError, match="num_steps >= 1 and batch_size"):
        train(
            jax.random.key(0),
            jnp.zeros(4),
            loss,
            (X, Y),
            optimizer=optax.sgd(0.1),
            num_steps=num_steps,
            batch_size=batch_size,
        )


def test_another_start_compiles_nothing_again():
    """A population of networks trains by one program, whatever the seed."""
    optimizer, traced = optax.sgd(0.1), []

    def counted(params, batch):
        traced.append(None)
        return loss(params, batch)

    for seed in range(3):
        options = {"optimizer": optimizer, "num_steps": 50, "batch_size": 8}
        train(jax.random.key(seed), jnp.full(4, float(seed)), counted, (X, Y), **options)
    assert len(traced) == 1


def test_a_noisy_loss_gets_a_key_of_its_own_at_each_step():
    def noisy(key, params, batch):
        return jax.random.uniform(key) + 0 * loss(params, batch)

    options = {"optimizer": optax.sgd(0.1), "num_steps": 60, "batch_size": 8, "noisy": True}
    first, again = (train(jax.random.key(0), jnp.zeros(4), noisy, (X, Y), **options).losses for _ in range(2))
    assert len(np.unique(first)) == 60
    np.testing.assert_array_equal(first, again)


def whole(key, params, part):
    return loss(params, part)


def test_minimize_is_gradient_descent_step_by_step():
    found = minimize(
        jax.random.key(3), jnp.zeros(4), whole, itertools.repeat((X, Y)), optimizer=optax.sgd(0.1), num_steps=60
    )
    weights, losses = np.zeros(4), []
    for _ in range(60):
        residual = X @ weights - Y
        losses.append(np.mean(residual**2))
        weights = weights - 0.1 * 2 * X.T @ residual / 32
    np.testing.assert_allclose(found.params, weights, atol=1e-5)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4, atol=1e-8)


def test_minimize_takes_parts_in_turn_and_no_more_than_it_needs():
    taken = []

    def data():
        for number in itertools.count():
            taken.append(number)
            yield jnp.asarray(float(number))

    found = minimize(
        jax.random.key(0), jnp.zeros(()), lambda key, params, part: part + 0 * params,
        data(), optimizer=optax.sgd(0.1), num_steps=120,
    )  # fmt: skip
    np.testing.assert_array_equal(found.losses, np.repeat([0.0, 1.0, 2.0], [50, 50, 20]))
    assert taken == [0, 1, 2]


def test_minimize_gives_each_step_a_key_of_its_own():
    def noisy(key, params, part):
        return jax.random.uniform(key) + 0 * params

    options = {"optimizer": optax.sgd(0.1), "num_steps": 60}
    losses = [
        minimize(jax.random.key(seed), jnp.zeros(()), noisy, itertools.repeat(None), **options).losses
        for seed in (0, 0, 1)
    ]
    assert len(np.unique(losses[0])) == 60
    np.testing.assert_array_equal(losses[0], losses[1])
    assert not np.array_equal(losses[0], losses[2])


def test_minimize_tells_progress_to_the_end_and_compiles_once():
    told, traced, optimizer = [], [], optax.sgd(0.1)

    def counted(key, params, part):
        traced.append(None)
        return loss(params, part)

    for seed in range(2):
        minimize(
            jax.random.key(seed), jnp.full(4, float(seed)), counted, itertools.repeat((X + seed, Y)),
            optimizer=optimizer, num_steps=100, on_progress=lambda *said: told.append(said),
        )  # fmt: skip
    assert told == [(50, 100), (100, 100)] * 2
    assert len(traced) == 1


def test_minimize_refuses_no_steps_and_data_that_end_too_early():
    with pytest.raises(ValueError, match="num_steps >= 1, got 0"):
        minimize(jax.random.key(0), jnp.zeros(4), whole, iter([]), optimizer=optax.sgd(0.1), num_steps=0)
    with pytest.raises(ValueError, match="ran out of data after 50 of 120 steps"):
        minimize(jax.random.key(0), jnp.zeros(4), whole, iter([(X, Y)]), optimizer=optax.sgd(0.1), num_steps=120)


def test_parameters_are_looked_at_between_runs_of_steps():
    seen: list[tuple[int, float]] = []
    start = {"w": jnp.zeros(())}

    def loss(params, batch):
        return jnp.square(params["w"] - 1.0) + 0.0 * batch.sum()

    trained = train(
        jax.random.key(0), start, loss, jnp.zeros((4, 1)), optimizer=optax.sgd(0.01), num_steps=70, batch_size=2,
        on_look=lambda done, params: seen.append((done, float(params["w"]))),
    )  # fmt: skip
    assert [done for done, _ in seen] == [50, 70]
    np.testing.assert_allclose([w for _, w in seen], [1 - 0.98**50, 1 - 0.98**70], rtol=1e-5)
    assert seen[-1][1] == float(trained.params["w"])


class Memory:
    """Keeps the last few places where a training stood."""

    def __init__(self) -> None:
        self.kept: list[Standing] = []

    def resumed(self, fresh: Standing) -> Standing:
        return self.kept[-1] if self.kept else fresh

    def keep(self, standing: Standing) -> None:
        self.kept.append(standing)


def test_a_training_goes_on_from_where_it_was_kept_to_the_same_end():
    """Momentum is part of what is kept: without it the second half would be another one."""
    options = {"optimizer": optax.sgd(0.05, momentum=0.9), "num_steps": 70, "batch_size": 8, "chunk": 20}
    whole = train(jax.random.key(0), jnp.zeros(4), loss, (X, Y), **options)
    memory = Memory()
    train(jax.random.key(0), jnp.zeros(4), loss, (X, Y), keeper=memory, **options)
    assert [one.done for one in memory.kept] == [20, 40, 60, 70]
    memory.kept = memory.kept[:2]
    told = []
    again = train(
        jax.random.key(0), jnp.zeros(4), loss, (X, Y), keeper=memory, on_progress=lambda *said: told.append(said),
        **options,
    )  # fmt: skip
    assert told == [(60, 70), (70, 70)]
    np.testing.assert_array_equal(again.params, whole.params)
    np.testing.assert_array_equal(again.losses, whole.losses)
    finished = train(jax.random.key(0), jnp.full(4, 9.0), loss, (X, Y), keeper=memory, **options)
    np.testing.assert_array_equal(finished.params, whole.params)
    np.testing.assert_array_equal(finished.losses, whole.losses)


def test_the_length_of_a_compiled_run_changes_nothing():
    options = {"optimizer": optax.sgd(0.05), "num_steps": 30, "batch_size": 8}
    runs = [train(jax.random.key(0), jnp.zeros(4), loss, (X, Y), chunk=chunk, **options).losses for chunk in (7, 50)]
    np.testing.assert_allclose(*runs, rtol=1e-6)
    with pytest.raises(ValueError, match="chunk >= 1"):
        train(jax.random.key(0), jnp.zeros(4), loss, (X, Y), chunk=0, **options)
