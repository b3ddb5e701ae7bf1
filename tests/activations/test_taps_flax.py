"""Flax modules are read by the names of their parts, at inference, and are the same object as before afterwards."""

import threading

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from repsim_jax.activations.extract import extract
from repsim_jax.activations.tap import tap
from repsim_jax.errors import RepsimError, UnknownNameError

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def modules(*parts):
    return nnx.List(parts) if hasattr(nnx, "List") else list(parts)  # flax 0.11 takes plain lists


class Block(nnx.Module):
    def __init__(self, rngs):
        self.fc = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.fc(x)))


class Doubled(Block):
    def __call__(self, x):
        return super().__call__(x), 2 * x


class Model(nnx.Module):
    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.shared = nnx.Linear(4, 4, rngs=rngs)
        self.blocks = modules(Block(rngs), Doubled(rngs))
        self.head = nnx.Sequential(nnx.Linear(4, 3, rngs=rngs), jnp.tanh)

    def __call__(self, x):
        x = self.blocks[0](self.shared(x))
        x, _ = self.blocks[1](self.shared(x))
        return {"logits": self.head(x), "none": None}


def state_of(module):
    return jax.tree.map(
        lambda leaf: np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf),
        nnx.to_pure_dict(nnx.state(module)) if hasattr(nnx, "to_pure_dict") else nnx.state(module),
    )


def test_parts_are_named_by_path_and_calls_by_number():
    assert list(tap(Model()).layers(X)) == [
        "shared",
        "blocks/0/fc",
        "blocks/0/norm",
        "blocks/0/dropout",
        "blocks/0",
        "shared#1",
        "blocks/1/fc",
        "blocks/1/norm",
        "blocks/1/dropout",
        "blocks/1/0",
        "blocks/1/1",
        "head/layers/0",
        "head",
        "output/logits",
    ]


def test_a_model_is_read_at_inference_and_left_as_it_was():
    model = Model()
    before, modes = state_of(model), [(b.norm.use_running_average, b.dropout.deterministic) for b in model.blocks]
    call = vars(nnx.Linear)["__call__"]
    found = tap(model).read(X, ("blocks/0/dropout", "blocks/0/fc"))
    np.testing.assert_allclose(found["blocks/0/dropout"], found["blocks/0/fc"] / np.sqrt(1 + 1e-5), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before, state_of(model))
    assert (
        modes == [(b.norm.use_running_average, b.dropout.deterministic) for b in model.blocks] == [(False, False)] * 2
    )
    assert vars(nnx.Linear)["__call__"] is call


def test_classes_are_put_back_when_the_model_fails():
    class Broken(nnx.Module):
        def __init__(self):
            self.fc = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            raise ZeroDivisionError(self.fc(x).shape)

    originals = vars(Broken)["__call__"], vars(nnx.Linear)["__call__"]
    with pytest.raises(RepsimError, match="model Broken raised ZeroDivisionError") as raised:
        tap(Broken()).layers(X)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert originals == (vars(Broken)["__call__"], vars(nnx.Linear)["__call__"])


def test_one_trace_per_shape_and_set_of_names():
    traces = []

    class Counted(nnx.Module):
        def __call__(self, x):
            traces.append(x.shape)
            return {"a": x + 1, "b": x + 2}

    found = tap(Counted())
    for _ in range(3):
        found.read(X, ("output/a",))
        found.read(X, ("output/a", "output/b"))
    assert traces == [X.shape] * 2
    found.read(X[:2], ("output/a",))
    assert traces[2:] == [(2, 4)]


def test_weights_are_arguments_of_the_program_and_no_constants_of_it():
    found = tap(Model())
    text = jax.jit(found.outputs).lower(found.state, X).as_text()
    assert text.count("stablehlo.dot_general") >= 4
    assert "dense<[[" not in text


def test_threads_that_tap_at_once_do_not_mix_their_layers():
    found, errors = {}, []

    def read(seed):
        try:
            model = Model(seed)
            found[seed] = (np.asarray(tap(model).read(X, ("shared",))["shared"]), np.asarray(model.shared(X)))
        except Exception as error:
            errors.append(error)

    call = vars(nnx.Linear)["__call__"]
    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert vars(nnx.Linear)["__call__"] is call
    for got, expected in found.values():
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_parts_inside_transforms_are_passed_by_and_leak_nothing():
    class Mapped(nnx.Module):
        def __init__(self):
            self.fc = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
            self.out = nnx.Linear(4, 4, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.out(jax.vmap(self.fc)(x))

    model = Mapped()
    assert list(tap(model).layers(X)) == ["out", "output"]
    got = tap(model).read(X, ("output",))["output"]
    np.testing.assert_allclose(got, model(X), atol=1e-6)


def test_switches_of_the_call_are_set_to_inference():
    class Switched(nnx.Module):
        def __call__(self, x, *, train, deterministic=False):
            return x * (2 if train or not deterministic else 1)

    np.testing.assert_array_equal(tap(Switched()).read(X, ("output",))["output"], X)


def test_a_module_without_a_call_is_refused():
    class Bag(nnx.Module):
        pass

    with pytest.raises(RepsimError, match="Bag has no __call__"):
        tap(Bag())


class Shared(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        fc = linen.Dense(4, name="fc")
        x = linen.BatchNorm(use_running_average=not train, name="norm")(fc(x))
        self.sow("intermediates", "seen", x)
        x = linen.remat(linen.Dense)(4, name="saved")(fc(x))
        return linen.Dropout(0.5, deterministic=not train)(x)


def test_linen_parts_are_named_by_path_and_calls_by_number():
    model = Shared()
    variables = model.init(jax.random.key(0), X, train=False)
    found = tap((model, variables))
    assert list(found.layers(X)) == ["fc", "norm", "fc#1", "saved", "Dropout_0", "output", "seen"]
    got = found.read(X, ("norm", "seen", "fc#1", "output"))
    np.testing.assert_array_equal(got["norm"], got["seen"])
    np.testing.assert_allclose(got["output"], model.apply(variables, X, train=False), atol=1e-6)
    params = variables["params"]["fc"]
    np.testing.assert_allclose(got["fc#1"], got["norm"] @ params["kernel"] + params["bias"], atol=1e-5)


def test_linen_scanned_layers_come_stacked_under_their_path():
    class Step(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            return linen.Dense(4, name="fc")(x), None

    class Stack(linen.Module):
        @linen.compact
        def __call__(self, x):
            scan = linen.scan(
                Step, variable_axes={"params": 0, "intermediates": 0}, split_rngs={"params": True}, length=3
            )
            return scan(name="steps")(x, None)[0]

    model = Stack()
    shapes = tap((model, model.init(jax.random.key(0), X))).layers(X)
    assert shapes["steps/fc"].shape == (3, 5, 4)
    assert shapes["output"].shape == (5, 4)


def test_linen_variables_must_be_collections():
    with pytest.raises(RepsimError, match=r"variables being what module.init returned; got list"):
        tap((Shared(), [1, 2]))


def test_nested_dicts_of_a_function_are_joined_by_slashes():
    def apply_fn(w, x):
        return {"b": {"inner": x * w, "more": [x, x + 1]}, "a": x}

    assert list(tap((apply_fn, 2.0)).layers(X)) == ["b/inner", "b/more/0", "b/more/1", "a"]


def test_names_that_clash_stay_apart():
    def apply_fn(_, x):
        return {"a/b": x, "a": {"b": x + 1}}

    found = tap((apply_fn, None)).read(X, ("a/b", "a/b#1"))
    np.testing.assert_array_equal(found["a/b#1"], X + 1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, r"tap reads a flax.nnx.Module.*got builtins.int"),
        ("model.pt", r"tap reads models from \.onnx files, got 'model.pt'"),
        ((3, {}), "its first part is int"),
        ((1, 2, 3), "got builtins.tuple"),
    ],
)
def test_what_is_no_model_is_refused_with_the_list_of_what_is(model, message):
    with pytest.raises(RepsimError, match=message):
        tap(model)


def test_a_missing_layer_is_named_before_anything_runs():
    with pytest.raises(UnknownNameError, match=r"no layer is called 'haed'.*'head'"):
        extract(Model(), X, layers="haed")


def test_flax_is_one_that_we_support():
    assert tuple(map(int, flax.__version__.split(".")[:2])) >= (0, 11)
