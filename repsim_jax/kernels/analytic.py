"""Kernels of infinitely wide networks: which Gaussian process is it at the start, and which kernel machine in training?

Lee et al. 2018, "Deep Neural Networks as Gaussian Processes" (arXiv 1711.00165); Jacot et al. 2018, "Neural Tangent
Kernel" (arXiv 1806.07572).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.kernels._activations import CLOSED_FORMS, FUNCTIONS, Elementwise, Moments, dual_of
from repsim_jax.kernels._convolutions import pooled_kernels
from repsim_jax.linalg import precise_jit

ACTIVATIONS = (*CLOSED_FORMS, *FUNCTIONS)
# Share of the slopes' mean square that a series may leave out: near equal inputs the NTK is off by as much.
_UNRESOLVED = 0.01
# Elements of one covariance of all positions with all positions, of which a convolutional kernel holds a few.
_BLOCK_ELEMENTS = 2**24


class Kernels(NamedTuple):
    """Kernels of an infinitely wide network between n and m inputs.

    Attributes:
        nngp: Covariance of one output at random initial weights.
        ntk: Product of the gradients of one output by all weights and biases.
        conjugate: Mean product of the features of the last hidden layer, ``nngp`` before the output layer.
    """

    nngp: Float[Array, "n m"]
    ntk: Float[Array, "n m"]
    conjugate: Float[Array, "n m"]


def mlp_kernels(
    x: Any,
    y: Any = None,
    *,
    activation: str | Elementwise = "relu",
    depth: int = 1,
    degree: int = 200,
    weight_std: float | Sequence[float] = 1.0,
    bias_std: float | Sequence[float] = 0.0,
) -> Kernels:
    r"""NNGP and NTK of a fully connected network of infinite width.

    Layers are :math:`h_{l+1} = \sigma_w W \phi(h_l) / \sqrt{d_l} + \sigma_b b` with all entries of W and b from
    N(0, 1), so that, with :math:`(u, v) \sim N(0, K_l)`,

    .. math:: K_{l+1} = \sigma_w^2 E[\phi(u) \phi(v)] + \sigma_b^2, \quad
        \Theta_{l+1} = K_{l+1} + \sigma_w^2 E[\phi'(u) \phi'(v)] \Theta_l, \quad
        \Theta_1 = K_1 = \sigma_w^2 x^T y / d + \sigma_b^2.

    Args:
        x: Inputs (n, d), of any scale: kernels of non-homogeneous activations depend on it.
        y: Inputs (m, d); None means x.
        activation: "relu", "erf", "gelu" (exact, by the error function) or "linear" in closed form, "tanh" or any
            elementwise function of an array by its Hermite series, which a function with a kink makes too long.
        depth: Hidden layers, at least 1.
        degree: Terms of the Hermite series, at least 2. Equal rows are exact, and rows at some angle to rounding; very
            near rows may be off by what lies beyond its end, 3e-4 of the NTK for tanh at preactivations of standard
            deviation 3. More than 1 % is refused.
        weight_std: :math:`\sigma_w`, positive; one number, or one for each of the depth + 1 dense layers. 1 is the
            LeCun initialization of ``repsim_jax.encoders``; :math:`\sqrt 2` keeps the variance through ReLU layers;
            :math:`(\sqrt d, 1)` is a first layer W x without its :math:`1 / \sqrt d`.
        bias_std: :math:`\sigma_b`, not negative; likewise. 0 is the encoders' initialization.

    Returns:
        Three (n, m) kernels.

    Raises:
        BadArrayError: If the inputs are not (n, d) and (m, d) of finite numbers, if a number is out of range, if the
            function is not elementwise or its series not done at ``degree``, or if the kernels overflow.
        UnknownNameError: If no activation has that name.

    Source:
        Recursions: Lee et al. 2018, equation 5, and Jacot et al. 2018, theorem 1. ReLU: Cho and Saul 2009; erf:
        Williams 1997; gelu: derived by partial integration, and tested against quadrature.

    Differs:
        Carries squared distances instead of correlations, so that near equal inputs keep their digits in float32. In
        the standard parametrization, which ``encoders`` are trained in, the NNGP is the same, but the NTK weighs each
        layer by its fan-in and counts biases that start at zero.

    >>> import numpy as np
    >>> kernels = mlp_kernels(np.eye(2), depth=1)
    >>> bool(np.isclose(kernels.ntk[0, 0], 0.5)), bool(np.isclose(kernels.nngp[0, 1], 0.25 / np.pi))
    (True, True)
    """
    _check_counts("mlp_kernels", depth=(depth, 1), degree=(degree, 2))
    _check_activation(activation)
    stds = _stds("mlp_kernels", weight_std, bias_std, depth + 1)
    x, y = _inputs("mlp_kernels", x, y, "nd")
    kernels, unresolved = _mlp_kernels(x, y, *stds, activation=activation, degree=degree)
    _check_resolved(unresolved, degree)
    return _finite("mlp_kernels", kernels)


@precise_jit(static_argnames=("activation", "degree"))
def _mlp_kernels(
    x: jax.Array,
    y: jax.Array,
    weight_std: jax.Array,
    bias_std: jax.Array,
    *,
    activation: str | Elementwise,
    degree: int,
) -> tuple[Kernels, jax.Array]:
    dual = dual_of(activation, degree)
    weight, bias = (jnp.square(std).astype(x.dtype) for std in (weight_std, bias_std))

    def layer(carry: tuple[Moments, jax.Array, jax.Array], stds: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        before, ntk, _ = carry
        features, slopes, unresolved = dual(before)
        after = _dense(features, *stds)
        return (after, after.kernel + stds[0] * slopes * ntk, features.kernel), unresolved

    first = _dense(_input_moments(x, y), weight[0], bias[0])
    start = (first, first.kernel, jnp.zeros_like(first.squared))
    (last, ntk, conjugate), unresolved = jax.lax.scan(layer, start, (weight[1:], bias[1:]))
    return Kernels(last.kernel, ntk, conjugate), jnp.max(unresolved)


def _dense(features: Moments, weight: jax.Array, bias: jax.Array) -> Moments:
    return Moments(weight * features.x + bias, weight * features.y + bias, weight * features.squared)


def _input_moments(x: jax.Array, y: jax.Array) -> Moments:
    """Means over features; differences are taken row by row, since a matrix product would lose those of near rows."""
    squared = jax.lax.map(lambda row: jnp.mean(jnp.square(row - y), axis=1), x)
    return Moments(jnp.mean(jnp.square(x), axis=1), jnp.mean(jnp.square(y), axis=1), squared)


def convnet_kernels(
    x: Any,
    y: Any = None,
    *,
    strides: Sequence[int] = (1, 2, 1),
    block: int | None = None,
    weight_std: float = 1.0,
    bias_std: float = 0.0,
) -> Kernels:
    r"""NNGP and NTK of ``encoders.ConvNet`` with infinitely many channels and hidden features.

    3 x 3 convolutions with zero padding ("SAME") and ReLU, the mean over positions, a dense ReLU layer and a dense
    output, every layer in the parametrization of ``mlp_kernels``: the fan-in of a convolution is 9 times its channels.

    Args:
        x: Images (n, h, w, c), channels last.
        y: Images (m, h, w, c); None means x.
        strides: Stride of each convolution; the default is that of ``encoders.ConvNetConfig()``.
        block: Images per side of a block that is computed at once; time and memory grow with (block h w)^2. None
            chooses a block that takes some hundred MB.
        weight_std: :math:`\sigma_w` of all layers, positive; 1 is the encoder's LeCun initialization.
        bias_std: :math:`\sigma_b` of all layers, not negative; 0 is the encoder's initialization.

    Returns:
        Three (n, m) kernels; ``conjugate`` is of the dense hidden layer.

    Raises:
        BadArrayError: If the inputs are not images of one size and of finite numbers, if a number is out of range, or
            if the kernels overflow.

    Source:
        Novak et al. 2019 (arXiv 1810.05148); Arora et al. 2019 (arXiv 1904.11955).

    Differs:
        Carries squared distances between all positions, as ``mlp_kernels`` does, so that float32 keeps its digits.
        In the standard parametrization, which ``encoders`` are trained in, the NNGP is the same, the NTK is not: see
        ``mlp_kernels``.
    """
    strides = tuple(strides)
    _check_counts("convnet_kernels", **{f"strides[{i}]": (stride, 1) for i, stride in enumerate(strides)})
    _check_counts("convnet_kernels", **{"len(strides)": (len(strides), 1)})
    (weight,), (bias,) = _stds("convnet_kernels", weight_std, bias_std, 1)
    symmetric = y is None
    x, y = _inputs("convnet_kernels", x, y, "nhwc")
    block = max(1, math.isqrt(_BLOCK_ELEMENTS) // math.prod(x.shape[1:3])) if block is None else block
    _check_counts("convnet_kernels", block=(block, 1))

    def tile(a: jax.Array, b: jax.Array | None) -> Kernels:
        return _convnet_kernels(a, b, weight, bias, strides=strides)

    return _finite("convnet_kernels", _tiled(tile, x, None if symmetric else y, min(block, max(len(x), len(y)))))


@precise_jit(static_argnames=("strides",))
def _convnet_kernels(
    x: jax.Array, y: jax.Array | None, weight_std: jax.Array, bias_std: jax.Array, *, strides: tuple[int, ...]
) -> Kernels:
    weight, bias = (jnp.square(std).astype(x.dtype) for std in (weight_std, bias_std))
    pooled, ntk = pooled_kernels(x, y, strides, weight, bias)
    hidden = _dense(pooled, weight, bias)
    features, slopes, _ = dual_of("relu", 0)(hidden)
    output = _dense(features, weight, bias)
    ntk = output.kernel + weight * slopes * (hidden.kernel + weight * ntk)
    return Kernels(output.kernel, ntk, features.kernel)


def _tiled(
    tile: Callable[[jax.Array, jax.Array | None], Kernels], x: jax.Array, y: jax.Array | None, size: int
) -> Kernels:
    """Computes blocks of one shape, filled up with copies of a row, and only one of each symmetric pair."""
    rows, columns = (_blocks(side, size) for side in (x, x if y is None else y))
    tiles: dict[tuple[int, int], Kernels] = {}
    for i, a in enumerate(rows):
        for j, b in enumerate(columns):
            if y is None and j < i:
                tiles[i, j] = Kernels(*(kernel.T for kernel in tiles[j, i]))
            else:
                tiles[i, j] = tile(a, None if y is None and i == j else b)
    shape = len(x), len(x if y is None else y)
    return Kernels(
        *(
            jnp.block([[tiles[i, j][k] for j in range(len(columns))] for i in range(len(rows))])[: shape[0], : shape[1]]
            for k in range(len(Kernels._fields))
        )
    )


def _blocks(x: jax.Array, size: int) -> list[jax.Array]:
    filled = jnp.concatenate([x, jnp.repeat(x[-1:], -len(x) % size, axis=0)])
    return jnp.split(filled, len(filled) // size)


def _inputs(operation: str, x: Any, y: Any, axes: str) -> tuple[jax.Array, jax.Array]:
    """Both inputs as floating-point arrays with these axes, the first of which may differ."""
    arrays = [_input(operation, name, each, axes) for name, each in (("x", x), ("y", y)) if each is not None]
    if arrays[0].shape[1:] != arrays[-1].shape[1:]:
        raise BadArrayError(
            f"{operation} compares inputs of one shape: got x {arrays[0].shape} and y {arrays[1].shape}. Pass the same "
            "features in both."
        )
    return arrays[0], arrays[-1]


def _input(operation: str, name: str, value: Any, axes: str) -> jax.Array:
    try:
        array = value if isinstance(value, jax.Array) else np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors that need .detach().cpu()
        raise BadArrayError(f"{operation} cannot turn {name} into an array: {error}") from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise BadArrayError(f"{operation} works on real numbers, got {name} of dtype {array.dtype}.")
    if array.ndim != len(axes) or 0 in array.shape:
        raise BadArrayError(
            f"{operation} works on inputs ({', '.join(axes)}), none of them 0, got {name} {array.shape}. Reshape them."
        )
    # Integers go through float64 on the host, since JAX would cut those of 64 bits off.
    array = jnp.asarray(array.astype(float) if isinstance(array, np.ndarray) and array.dtype.kind in "iu" else array)
    array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    if not is_traced(array) and not bool(jnp.isfinite(array).all()):
        bad = np.flatnonzero(~np.isfinite(np.asarray(array)).reshape(len(array), -1).all(axis=1))
        raise BadArrayError(
            f"{operation} got NaN or infinity in {bad.size} of the {len(array)} rows of {name}, the first are rows "
            f"{', '.join(map(str, bad[:5]))}. Mend or drop them."
        )
    return array


def _check_counts(operation: str, **counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise BadArrayError(f"{operation} needs a whole number {name} >= {least}, got {value!r}.")


def _check_activation(activation: str | Elementwise) -> None:
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise UnknownNameError.of("activation", activation, ACTIVATIONS)
        return
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    if not callable(activation) or getattr(jax.eval_shape(activation, shape), "shape", None) != shape.shape:
        raise BadArrayError(
            f"mlp_kernels needs the name of an activation or an elementwise function of an array, got {activation!r}."
        )


def _stds(operation: str, weight_std: Any, bias_std: Any, layers: int) -> tuple[jax.Array, jax.Array]:
    """Standard deviations of every layer."""
    spread = []
    for name, std, zero in (("weight_std", weight_std, False), ("bias_std", bias_std, True)):
        array = jnp.asarray(std, float)
        if array.shape not in ((), (layers,)):
            raise BadArrayError(
                f"{operation} needs one {name}, or one for each of its {layers} dense layers, got shape {array.shape}."
            )
        if not is_traced(array) and not bool((jnp.isfinite(array) & ((array >= 0) if zero else (array > 0))).all()):
            least = "not negative" if zero else "positive"
            raise BadArrayError(f"{operation} needs a {name} that is finite and {least}, got {std}.")
        spread.append(jnp.broadcast_to(array, (layers,)))
    return spread[0], spread[1]


def _check_resolved(unresolved: jax.Array, degree: int) -> None:
    if not is_traced(unresolved) and float(unresolved) > _UNRESOLVED:
        raise BadArrayError(
            f"mlp_kernels has a Hermite series of {degree} terms, which leaves out {float(unresolved):.1%} of the "
            "slopes' square. Raise degree, or bring the preactivations down (inputs or weight_std); a function with a "
            "kink needs one of the closed forms."
        )


def _finite(operation: str, kernels: Kernels) -> Kernels:
    if not is_traced(kernels.ntk) and not all(bool(jnp.isfinite(kernel).all()) for kernel in kernels):
        raise BadArrayError(
            f"{operation} overflows {kernels.ntk.dtype} for these inputs. Scale them down, or use a smaller weight_std."
        )
    return kernels
