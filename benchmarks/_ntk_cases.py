"""Networks whose tangent kernels are timed, written once for JAX; parts of speed_ntk.py."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SEED = 0
Apply = Callable[[Any, jax.Array], jax.Array]


class Case(NamedTuple):
    """One kernel to compute.

    Attributes:
        name: Of the row.
        apply: The model.
        params: Its parameters.
        x: Its inputs (n, ...).
        limit: The products of a layer-wise kernel by hand, nothing else; None where no plain form exists.
    """

    name: str
    apply: Apply
    params: Any
    x: jax.Array
    limit: Callable[[], Any] | None

    def jacobian_bytes(self) -> int:
        """Size of the explicit Jacobian.

        Returns:
            Bytes.
        """
        outputs = jax.eval_shape(self.apply, self.params, self.x).size
        return 4 * outputs * sum(w.size for w in jax.tree.leaves(self.params))


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers.

    Args:
        seed: Added to the seed of the benchmark.
        *shape: Of the array.

    Returns:
        The array.
    """
    return jax.random.normal(jax.random.key(SEED + seed), shape)


def two_layer(name: str, n: int, width: int, inputs: int, outputs: int) -> Case:
    """A two-layer ReLU network; its limit is three Gram matrices and one forward pass.

    Args:
        name: Of the row.
        n: Examples.
        width: Hidden units.
        inputs: Features.
        outputs: Outputs.

    Returns:
        The case.
    """
    params = {"v": normal(1, inputs, width), "w": normal(2, width, outputs)}
    x = normal(0, n, inputs) / math.sqrt(inputs)
    hidden = normal(3, n, width)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["v"]) @ params["w"] / math.sqrt(width)

    products = jax.jit(lambda v, x, h: (x @ v, x @ x.T, h @ h.T, (2 * h) @ (2 * h).T))
    return Case(name, apply, params, x, lambda: products(params["v"], x, hidden))


def mlp(name: str, n: int, width: int, depth: int, inputs: int, outputs: int) -> Case:
    """A deep ReLU network without biases; its limit has all passes and Gram matrices.

    Args:
        name: Of the row.
        n: Examples.
        width: Of each hidden layer.
        depth: Hidden layers.
        inputs: Features.
        outputs: Outputs.

    Returns:
        The case.
    """
    sizes = (inputs, *(width,) * depth, outputs)
    params = [normal(i, a, b) / math.sqrt(a) for i, (a, b) in enumerate(itertools.pairwise(sizes))]
    x = normal(99, n, inputs)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        for w in params[:-1]:
            x = jax.nn.relu(x @ w)
        return x @ params[-1]

    def products(params: Any, x: jax.Array, signals: jax.Array) -> Any:
        found, h = [], x
        for w in params[:-1]:
            rows = signals.reshape(n, -1)
            found += [h @ h.T, rows @ rows.T]
            h = h @ w
            signals = signals @ params[1] if depth > 1 else signals
        return found, h @ h.T

    signals, compiled = normal(98, n, outputs, width), jax.jit(products)
    return Case(name, apply, params, x, lambda: compiled(params, x, signals))


def cnn(name: str, n: int, channels: int, size: int, outputs: int) -> Case:
    """Three 3 x 3 convolutions, two of them with stride 2, and a dense layer.

    Args:
        name: Of the row.
        n: Examples.
        channels: Of each convolution.
        size: Of the square images, of three channels.
        outputs: Outputs.

    Returns:
        The case.
    """
    shapes = [(3, 3, 3, channels), (3, 3, channels, channels), (3, 3, channels, channels)]
    last = (size // 4) ** 2 * channels
    params = [normal(i, *s) / math.sqrt(9 * s[2]) for i, s in enumerate(shapes)]
    params.append(normal(9, last, outputs) / math.sqrt(last))

    def apply(params: Any, x: jax.Array) -> jax.Array:
        for w, stride in zip(params[:3], (1, 2, 2), strict=True):
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=numbers))
        return x.reshape(len(x), -1) @ params[3]

    return Case(name, apply, params, normal(99, n, size, size, 3), None)


def written(way: str, n: int, width: int) -> Case:
    """One two-layer network with four outputs, its first weight written in one of several ways.

    Args:
        way: "direct", "transposed", "scaled", "cast", "reshaped" or "stacked".
        n: Examples.
        width: Hidden units and features.

    Returns:
        The case.
    """
    v, w, x = normal(1, width, width), normal(2, width, 4), normal(0, n, width) / math.sqrt(width)
    first: dict[str, Callable[[jax.Array], jax.Array]] = {
        "direct": lambda v: v,
        "transposed": lambda v: v.T,
        "scaled": lambda v: v / math.sqrt(width),
        "cast": lambda v: v.astype(jnp.bfloat16).astype(jnp.float32),
        "reshaped": lambda v: v.reshape(width, width),
        "stacked": lambda v: v[0],
    }
    held = {"transposed": v.T, "reshaped": v.ravel(), "stacked": jnp.stack([v, v])}.get(way, v)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ first[way](params["v"])) @ params["w"]

    return Case(f"written_{way}", apply, {"v": held, "w": w}, x, None)


def cases(small: bool) -> list[Case]:
    """What is measured.

    Args:
        small: Whether only the script is tried out.

    Returns:
        The cases.
    """
    n, width, inputs = (16, 32, 8) if small else (512, 4096, 784)
    many, deep, batch = (24, 16, 6) if small else (2048, 1024, 256)
    images, channels = (4, 4) if small else (48, 96)
    ways = ("direct", "transposed", "scaled", "cast", "reshaped", "stacked")
    return [
        two_layer("two_layer_1_output", n, width, inputs, 1),
        two_layer("two_layer_10_outputs", n, width, inputs, 10),
        two_layer("two_layer_symmetric", many, width, inputs, 1),
        two_layer("two_layer_few_examples", 8 if small else 16, width, inputs, 10),
        mlp("mlp_4_layers", batch, deep, 4, inputs, 10),
        mlp("mlp_4_layers_few_examples", 8, deep, 4, inputs, 10),
        cnn("cnn_32_channels", 4 if small else 32, 4 if small else 32, 8 if small else 16, 10),
        cnn("cnn_96_channels", images, channels, 8 if small else 16, 10),
        *(written(way, 8 if small else 64, 16 if small else 1024) for way in ways),
    ]


def sweeps(small: bool) -> dict[str, list[tuple[int, Case]]]:
    """Along what the cost grows, around one network.

    Args:
        small: Whether only the script is tried out.

    Returns:
        By what varies, its values and the cases.
    """
    n, width, inputs, deep = (12, 16, 8, 16) if small else (512, 2048, 784, 512)
    factors = (1, 2) if small else (1, 2, 4, 8, 16)
    return {
        "examples": [(v, two_layer("n", v, width, inputs, 1)) for v in (n // 4 * f for f in factors)],
        "width": [(v, two_layer("width", n, v, inputs, 1)) for v in (width // 4 * f for f in factors)],
        "outputs": [(v, two_layer("outputs", n, width, inputs, v)) for v in factors],
        "depth": [(v, mlp("depth", n // 4, deep, v, inputs, 10)) for v in factors],
    }
