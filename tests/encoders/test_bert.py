"""BERT computes what the textbook says, blind to padding, and every hidden layer can be read by name."""

import functools

import jax
import numpy as np
import oracles_text as oracle
import pytest
from flax import nnx

from repsim_jax import activations
from repsim_jax.encoders.bert import Bert, BertConfig, hidden_layers

SMALL = BertConfig(vocab_size=20, width=8, num_layers=2, num_heads=2, mlp_width=12, num_positions=9, norm_epsilon=1e-6)
LENGTHS = (4, 6)
MASK = (np.arange(6) < np.array(LENGTHS)[:, None]).astype(np.int32)
INPUTS = {"ids": np.random.default_rng(0).integers(0, 20, (2, 6), dtype=np.int32), "mask": MASK}


LAYERS = (
    *hidden_layers(SMALL),
    *(f"block_{index}/attention/{part}" for index in (0, 1) for part in ("query", "key", "value")),
)
TENSORS = oracle.bert_tensors(SMALL)


@functools.cache
def small(first_position: int = 0) -> Bert:
    config = BertConfig(**{**vars(SMALL), "first_position": first_position})
    abstract = nnx.eval_shape(lambda: Bert(config, rngs=nnx.Rngs(0)))  # nothing runs: its parameters are filled next
    return oracle.filled(abstract, TENSORS)


@functools.cache
def tap(first_position: int = 0) -> activations.Tap:
    return activations.tap(small(first_position))


@pytest.mark.parametrize("first_position", [0, 2], ids=["bert", "roberta"])
def test_every_hidden_layer_is_the_textbooks_on_the_real_tokens(first_position: int):
    found = tap(first_position).read(INPUTS, LAYERS)
    for row, length in enumerate(LENGTHS):
        ids = INPUTS["ids"][row, :length].tolist()
        expected = oracle.bert_layers(TENSORS, ids, small(first_position).config)
        assert set(expected) == set(LAYERS)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][row, :length], value, atol=3e-5, err_msg=name)


def test_hidden_layers_are_named_in_the_order_of_computation():
    shapes = tap().layers(INPUTS)
    assert tuple(name for name in shapes if name in hidden_layers(SMALL)) == hidden_layers(SMALL)
    assert hidden_layers(SMALL) == ("embeddings", "block_0", "block_1")
    assert {shapes[name].shape for name in shapes if "/mlp/expand" not in name} == {(2, 6, 8)}


@pytest.mark.parametrize("first_position", [0, 2], ids=["bert", "roberta"])
def test_padding_changes_no_real_token(first_position: int):
    other = {"ids": np.where(MASK == 1, INPUTS["ids"], 7).astype(np.int32), "mask": MASK}
    first, second = (tap(first_position).read(inputs, LAYERS) for inputs in (INPUTS, other))
    for name in LAYERS:
        np.testing.assert_allclose(first[name][MASK == 1], second[name][MASK == 1], rtol=1e-5, atol=1e-6)


def test_a_text_without_real_tokens_stays_finite():
    empty = {"ids": INPUTS["ids"], "mask": np.zeros_like(MASK)}
    assert all(np.isfinite(layer).all() for layer in tap().read(empty, LAYERS).values())


def test_random_init_trains_every_parameter_in_one_program_per_shape():
    config = BertConfig(**{**vars(SMALL), "num_layers": 1})
    graph, state = nnx.split(nnx.jit(lambda: Bert(config, rngs=nnx.Rngs(0)))())
    traces = []

    @jax.jit
    @jax.grad
    def gradient_of(state, inputs):
        traces.append(1)
        return (nnx.merge(graph, state)(inputs) ** 3).sum()

    gradient_of(state, {"ids": INPUTS["ids"][::-1].copy(), "mask": np.ones_like(MASK)})
    for path, gradient in nnx.to_flat_state(gradient_of(state, INPUTS)):
        # softmax does not see a number that is added to every score of a query
        if path[-2:] != ("key", "bias"):
            assert np.abs(gradient[...]).max() > 0, path
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"ids": INPUTS["ids"]}, r"wants a dict with \"ids\" and \"mask\".*got \['ids'\]"),
        ({"ids": INPUTS["ids"], "mask": MASK[:, :5]}, r"mask \(2, 5\)"),
        ({"ids": INPUTS["ids"][0], "mask": MASK[0]}, r"integer ids \(b, t\)"),
        ({"ids": INPUTS["ids"] * 0.5, "mask": MASK}, "got ids float"),
        ({"ids": np.zeros((1, 10), np.int32), "mask": np.ones((1, 10), np.int32)}, "at most 9 tokens; got t = 10"),
    ],
)
def test_wrong_input_is_refused_at_the_door(inputs: dict[str, np.ndarray], said: str):
    with pytest.raises(ValueError, match=said):
        small()(inputs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation": "tanh"}, "an activation of gelu"),
        ({"num_heads": 3}, "num_heads to divide width"),
        ({"width": 0}, "positive sizes"),
        ({"first_position": 9}, "more positions than first_position"),
    ],
)
def test_an_impossible_shape_is_refused(change: dict[str, object], said: str):
    with pytest.raises(ValueError, match=said):
        BertConfig(**{**vars(SMALL), **change})
