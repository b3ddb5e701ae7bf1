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
# # When is a wide contrastive network just a kernel, or PCA?
#
# Training a very wide network hardly moves any single weight. If its *tangent kernel* - the inner products of the
# gradients of its outputs - stays what it was at the start, then training is kernel regression in disguise: no
# features are learned, and a kernel machine would do. arXiv 2403.08673 asks when this is so for *contrastive* losses.
# Its claims, as its abstract states them: the kernel stays for losses of cosine similarity, it does not for dot
# products, and with orthonormal output weights the representation is close to principal components.
#
# Here we look with our own eyes, on real digits. Nothing downloads anything. On Colab, first run
# `!pip install "repsim_jax[digits,theory]"`.
#
# ## Data: triplets
# An example, a noisy view of it, and an unrelated example.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

from repsim_jax import theory
from repsim_jax.data import open_source
from repsim_jax.theory import Objective

source = open_source("digits")
images = np.stack([source.get(i) for i in range(len(source))]).reshape(len(source), -1)
given = theory.triplets(jax.random.key(0), images, num_triplets=8)
print(given.points.shape, "points: anchors, positives, negatives, in coordinates of their own span")

# %% [markdown]
# ## The kernel in time
# Networks of three widths are trained by gradient flow, an ordinary differential equation that is integrated with
# controlled error. At every look their tangent kernel is compared with that of the start.

# %%
objectives = [
    Objective("linear", "cosine"),
    Objective("linear", "dot"),
    Objective("logistic", "dot"),
    Objective("spectral", "dot"),
]
setup = theory.Setup(
    widths=(64, 256, 1024), num_seeds=3, num_outputs=8, activations=("tanh",), horizon=4.0, num_times=19
)
courses = theory.drift(jax.random.key(1), given, objectives=objectives, setup=setup)

figure, axes = plt.subplots(1, 4, figsize=(14, 3), sharey=True)
for axis, course in zip(axes, courses, strict=True):
    for width, change in zip(course.widths, course.change, strict=True):
        axis.loglog(course.times, np.where(np.isfinite(change), change, np.nan).mean(1), label=f"width {width:,}")
    axis.axhline(0.1, color="gray", ls=":")
    axis.set(title=course.label, xlabel="time", ylim=(1e-5, 2))
axes[0].set_ylabel("relative change of the kernel")
axes[0].legend()
# %% [markdown]
# Under the cosine the lines of wider networks stay below for all time: make the network wide enough, and it is a
# kernel. Under the *linear* loss of dot products all widths break away at nearly the same time: width buys almost
# nothing.
#
# But look at the other two. They are dot products too, and they stay. What they have in common with the cosine is a
# lower bound: their gradient dies out. The linear loss falls forever, and so the embeddings grow forever. *That* is the
# line, in our measurements; the paper's abstract draws it between cosine and dot product.

# %%
for course in courses:
    escaped = course.escape_times().mean(1)
    slope = course.slopes[4]
    print(f"{course.label:24} kept until t = {course.kept_until:<5.3g} escape times {np.round(escaped, 2)}"
          f"   exponent of the early change in the width {slope.value:.2f}")  # fmt: skip

# %% [markdown]
# ## How long does the linear loss stay? Like log M
# While the kernel stays, embeddings follow a closed form, exp(t K A) times where they started, and grow like
# exp(lambda t). They must grow by the root of the width M before the weights have moved enough to change the kernel:
# lambda t grows by 1/2 for each unit of log M.
#
# ## Orthonormal output weights: PCA
# `theory.verify` tests this and all the rest, with intervals over seeds and a verdict for each claim. Here with small
# widths; `repsim theory verify` does it at full size and writes a page.

# %%
small = theory.Setup(
    widths=(64, 256, 1024), num_seeds=3, num_outputs=8, activations=("tanh",), horizon=4.0, num_times=10
)
claims = theory.verify(jax.random.key(1), given, setup=small)
for claim in claims:
    print(f"{claim.verdict_told.upper()}: {claim.name}  [{claim.origin}]")
    print("   predicted:", claim.predicted)
    print("   observed: ", claim.observed, "\n")

# %% [markdown]
# With frozen features the trained embeddings equal principal components of a matrix of random features, to rounding.
# With trained features they leave them in proportion to time over width, and never further than the Davis-Kahan bound
# allows.
#
# ## So what should I do with my data?
# Start from PCA, and move on only when it pays. The widths and times of your own network decide, not a theorem about
# infinite ones. The numbers for MNIST and CIFAR-10, widths up to 16,384 and two hidden layers are in
# `benchmarks/results/theory_*.json`.

# %%
by_name = {claim.name: claim for claim in claims}
assert courses[0].kept_until == courses[2].kept_until == courses[3].kept_until == 4.0
assert np.isfinite(courses[1].escape_times()).all()
assert by_name["frozen features give PCA"].series[0].values.max() < 1e-8
assert by_name["trained features stay near PCA"].series[0].slope.high < 0
