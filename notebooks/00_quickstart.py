# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: how alike are two models, layer by layer?
#
# Nothing here downloads anything. On Colab, first run `!pip install "repsim_jax[digits,table]"`,
# which leaves Colab's JAX as it is.
#
# ## From two arrays to a number
# `x` and `y` are representations of the same n examples: a row each, in the same order. The widths may differ.

# %%
import numpy as np

from repsim_jax import similarity

generator = np.random.default_rng(0)
x = generator.normal(size=(500, 20))
rotation = np.linalg.qr(generator.normal(size=(20, 20)))[0]
y = 3 * x @ rotation + 1
float(similarity.linear_cka(x, y))

# %% [markdown]
# Linear CKA does not see rotation, scale or shift, so `y` is the same representation to it: 1. What a measure does not
# see is part of it:

# %%
for name, measure in similarity.measures().items():
    print(f"{name:22} {measure.range!s:16} {', '.join(sorted(measure.invariances))}")

# %% [markdown]
# ## The hidden layers of two networks
# Two small networks learn scikit-learn's handwritten digits from different seeds; a third sees shuffled labels.

# %%
import jax
import optax
from flax import nnx
from sklearn.datasets import load_digits

digits = load_digits()
images, labels = (digits.data / 16).astype(np.float32), digits.target
train, held_out = slice(0, 1297), slice(1297, None)


class Classifier(nnx.Module):
    """Three hidden layers, then the ten digits."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(64, 64, rngs=rngs)
        self.second = nnx.Linear(64, 64, rngs=rngs)
        self.third = nnx.Linear(64, 64, rngs=rngs)
        self.digit = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        for layer in (self.first, self.second, self.third):
            x = nnx.relu(layer(x))
        return self.digit(x)


def trained(seed: int, targets: np.ndarray, num_steps: int = 300) -> Classifier:
    graph, params = nnx.split(Classifier(rngs=nnx.Rngs(seed)))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        def loss(params):
            logits = nnx.merge(graph, params)(images[train])
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets[train]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(num_steps):
        params, state = step(params, state)
    return nnx.merge(graph, params)


old, new = trained(0, labels), trained(1, labels)
shuffled = trained(2, generator.permutation(labels))
[float((np.argmax(model(images[held_out]), 1) == labels[held_out]).mean()) for model in (old, new, shuffled)]

# %% [markdown]
# `extract` reads every layer by its name, here for the 500 images that no network was trained on.

# %%
from repsim_jax import activations

layers = {
    name: activations.extract(model, images[held_out], layers=("first", "second", "third"), metadata={"model": name})
    for name, model in {"old": old, "new": new, "shuffled": shuffled}.items()
}
layers["old"].layers.keys()

# %% [markdown]
# ## All layer pairs at once

# %%
update = similarity.compare(layers["old"], layers["new"], measures=("linear_cka_unbiased", "procrustes", "mutual_knn"))
broken = similarity.compare(layers["old"], layers["shuffled"], measures=update.measures)
update.to_pandas().query("layer_a == layer_b")

# %% [markdown]
# Which direction means more alike stands with each measure; what to know before concluding, with the result:

# %%
print(update.notes or "No warnings: enough examples for these widths.")
{name: similarity.measures()[name].larger_is_more_similar for name in update.measures}

# %% [markdown]
# ## A picture
# Two good networks agree most in layers of like depth; the one that learned shuffled labels drifts away.

# %%
# %matplotlib inline
from repsim_jax import report

report.figures(report.digest(update))["heat_linear_cka_unbiased"]

# %%
report.figures(report.digest(broken))["heat_linear_cka_unbiased"]

# %% [markdown]
# ## The same from the command line
# `repsim compare old new --data digits --gate policy.toml` compares two models or stores, writes one self-contained
# page, and exits with 1 where a layer has moved further than the policy allows. `repsim tour` shows it on these digits.
