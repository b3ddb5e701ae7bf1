"""The Universal Sentence Encoder computes what the textbook says, and every hidden layer can be read by name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles_text as oracle
import pytest
from flax import nnx

from repsim_jax import activations
from repsim_jax.encoders.use import UniversalSentenceEncoder, UseConfig, sentence_layers, token_layers

SMALL = UseConfig(vocab_size=20, width=8, branch_width=4, orders=(2, 3, 5), hidden_width=6, norm_epsilon=1e-6)
LENGTHS = (3, 7, 1)
MASK = (np.arange(7) < np.array(LENGTHS)[:, None]).astype(np.int32)
INPUTS = {"ids": np.random.default_rng(0).integers(0, 20, (3, 7), dtype=np.int32), "mask": MASK}


LAYERS = (*token_layers(SMALL), *sentence_layers(), "output")


@functools.cache
def small() -> UniversalSentenceEncoder:
    abstract = nnx.eval_shape(lambda: UniversalSentenceEncoder(SMALL, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(abstract)
    generator = np.random.default_rng(1)
    flat = [
        (path, leaf.replace(jnp.asarray(generator.normal(size=leaf.shape, scale=0.5), jnp.float32)))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(flat))


@functools.cache
def tap() -> activations.Tap:
    return activations.tap(small())


def test_every_hidden_layer_is_the_textbooks_on_the_real_tokens():
    tensors = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(small()))}
    found = tap().read(INPUTS, LAYERS)
    for row, length in enumerate(LENGTHS):
        ids = INPUTS["ids"][row, :length].tolist()
        expected = oracle.use_embedding(tensors, ids, SMALL.orders, SMALL.norm_epsilon)
        assert set(expected) == set(LAYERS)
        for name, value in expected.items():
            layer = found[name][row]
            np.testing.assert_allclose(layer[:length] if value.ndim == 2 else layer, value, atol=1e-4, err_msg=name)


def test_hidden_layers_are_named_in_the_order_of_computation():
    shapes = tap().layers(INPUTS)
    tokens, sentences = token_layers(SMALL), sentence_layers()
    assert tuple(name for name in shapes if name in tokens + sentences) == tokens + sentences
    assert {len(shapes[name].shape) for name in tokens} == {3}
    assert {len(shapes[name].shape) for name in sentences} == {2}


def test_padding_changes_nothing():
    other = {"ids": np.where(MASK == 1, INPUTS["ids"], 7).astype(np.int32), "mask": MASK}
    first, second = (tap().read(inputs, LAYERS) for inputs in (INPUTS, other))
    for name in LAYERS:
        real = MASK == 1 if first[name].ndim == 3 else slice(None)
        np.testing.assert_allclose(first[name][real], second[name][real], atol=1e-6, err_msg=name)


def test_embeddings_have_length_one_and_an_empty_text_stays_finite():
    np.testing.assert_allclose(np.linalg.norm(tap().read(INPUTS, LAYERS)["output"], axis=1), 1, rtol=1e-6)
    empty = {"ids": INPUTS["ids"], "mask": np.zeros_like(MASK)}
    assert all(np.isfinite(layer).all() for layer in tap().read(empty, LAYERS).values())


def test_random_init_gives_finite_embeddings():
    embedded = jax.jit(lambda inputs: UniversalSentenceEncoder(SMALL, rngs=nnx.Rngs(0))(inputs))(INPUTS)
    assert np.isfinite(embedded).all()


def test_wrong_input_is_refused_at_the_door():
    with pytest.raises(ValueError, match='UniversalSentenceEncoder wants a dict with "ids" and "mask"'):
        small()({"ids": INPUTS["ids"]})


@pytest.mark.parametrize("change", [{"width": 0}, {"orders": ()}, {"orders": (2, 2)}])
def test_an_impossible_shape_is_refused(change: dict[str, object]):
    with pytest.raises(ValueError, match="positive sizes and distinct orders"):
        UseConfig(**{**vars(SMALL), **change})
