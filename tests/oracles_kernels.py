"""Slow textbook twins of the kernels of infinitely wide networks, in NumPy and float64, by correlations and loops."""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

Pair = Callable[[float, float, float], tuple[float, float]]


def relu_pair(x: float, y: float, k: float) -> tuple[float, float]:
    """E[f(u) f(v)] and E[f'(u) f'(v)] of ReLU, from the angle."""
    if x == 0 or y == 0:
        return 0.0, 0.0
    angle = math.acos(min(1.0, max(-1.0, k / math.sqrt(x * y))))
    value = math.sqrt(x * y) * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
    return value, (math.pi - angle) / (2 * math.pi)


def erf_pair(x: float, y: float, k: float) -> tuple[float, float]:
    scale = math.sqrt((1 + 2 * x) * (1 + 2 * y))
    return 2 / math.pi * math.asin(2 * k / scale), 4 / math.pi / math.sqrt(scale**2 - 4 * k**2)


def quadrature_pair(function: Callable[..., np.ndarray], slope: Callable[..., np.ndarray]) -> Pair:
    """Two-dimensional trapezoidal rule through the Cholesky factor of the covariance."""
    nodes = np.arange(-9, 9, 0.05)
    weights = 0.05 * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    first, second = np.meshgrid(nodes, nodes, indexing="ij")
    both = np.outer(weights, weights)

    def pair(x: float, y: float, k: float) -> tuple[float, float]:
        u = math.sqrt(x) * first
        v = k / math.sqrt(x) * first + math.sqrt(max(0.0, y - k**2 / x)) * second
        return tuple(float((both * each(u) * each(v)).sum()) for each in (function, slope))

    return pair


def _gelu(u: np.ndarray) -> np.ndarray:
    return u * _normal_cdf(u)


def _gelu_slope(u: np.ndarray) -> np.ndarray:
    return _normal_cdf(u) + u * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)


def _normal_cdf(u: np.ndarray) -> np.ndarray:
    return (1 + special.erf(u / math.sqrt(2))) / 2


PAIRS: dict[str, Pair] = {
    "relu": relu_pair,
    "erf": erf_pair,
    "linear": lambda x, y, k: (k, 1.0),
    "tanh": quadrature_pair(np.tanh, lambda u: 1 / np.cosh(u) ** 2),
    "gelu": quadrature_pair(_gelu, _gelu_slope),
}


def mlp_kernels(
    x: np.ndarray, y: np.ndarray, activation: str, depth: int, weight_std: float, bias_std: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NNGP, NTK and the kernel of the last hidden layer, pair of rows by pair of rows."""
    pair, shape = PAIRS[activation], (len(x), len(y))
    out = [np.zeros(shape) for _ in range(3)]
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            own_a, own_b, k = (weight_std**2 * np.mean(each) + bias_std**2 for each in (a * a, b * b, a * b))
            ntk = k
            for _ in range(depth):
                hidden, slope = pair(own_a, own_b, k)
                k = weight_std**2 * hidden + bias_std**2
                ntk = k + weight_std**2 * slope * ntk
                own_a, own_b = (weight_std**2 * pair(own, own, own)[0] + bias_std**2 for own in (own_a, own_b))
            out[0][i, j], out[1][i, j], out[2][i, j] = k, ntk, hidden
    return out[0], out[1], out[2]


def convnet_kernels(
    x: np.ndarray, y: np.ndarray, strides: tuple[int, ...], weight_std: float, bias_std: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NNGP, NTK and the kernel of the hidden dense layer, pair of images by pair of images."""
    out = [np.zeros((len(x), len(y))) for _ in range(3)]
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            own_a, own_b = (_pooled(each, each, strides, weight_std, bias_std)[0] for each in (a, b))
            k, ntk = _pooled(a, b, strides, weight_std, bias_std)
            own_a, own_b, k = (weight_std**2 * each + bias_std**2 for each in (own_a, own_b, k))
            hidden, slope = relu_pair(own_a, own_b, k)
            nngp = weight_std**2 * hidden + bias_std**2
            out[0][i, j], out[2][i, j] = nngp, hidden
            out[1][i, j] = nngp + weight_std**2 * slope * (k + weight_std**2 * ntk)
    return out[0], out[1], out[2]


def _pooled(
    a: np.ndarray, b: np.ndarray, strides: tuple[int, ...], weight_std: float, bias_std: float
) -> tuple[float, float]:
    """Means over positions of the kernel after the last ReLU and of the NTK of what enters it, times its slopes."""
    kernel = {pair: np.einsum("hwc,ijc->hwij", *pair_of) / a.shape[-1] for pair, pair_of in _pairs(a, b).items()}
    ntk = np.zeros_like(kernel["ab"])
    for stride in strides:
        kernel = {pair: weight_std**2 * _over_windows(each, stride) + bias_std**2 for pair, each in kernel.items()}
        ntk = kernel["ab"] + weight_std**2 * _over_windows(ntk, stride)
        after = {pair: np.zeros_like(each) for pair, each in kernel.items()}
        for p in np.ndindex(*ntk.shape[:2]):
            for q in np.ndindex(*ntk.shape[:2]):
                own = {"a": kernel["aa"], "b": kernel["bb"]}
                for pair in kernel:
                    left, right = own[pair[0]][p + p], own[pair[1]][q + q]
                    after[pair][p + q], slope = relu_pair(left, right, kernel[pair][p + q])
                    if pair == "ab":
                        ntk[p + q] *= slope
        kernel = after
    return kernel["ab"].mean(), ntk.mean()


def _pairs(a: np.ndarray, b: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {"aa": (a, a), "bb": (b, b), "ab": (a, b)}


def _over_windows(kernel: np.ndarray, stride: int) -> np.ndarray:
    """Mean over 3 x 3 windows with zeros around ("SAME"), moved alike on both sides."""
    h, w = kernel.shape[:2]
    i, j = -(-h // stride), -(-w // stride)
    top, left = (max((o - 1) * stride + 3 - s, 0) // 2 for o, s in ((i, h), (j, w)))
    out = np.zeros((i, j, i, j))
    for p in np.ndindex(i, j):
        for q in np.ndindex(i, j):
            for shift in np.ndindex(3, 3):
                at = [c * stride - start + s for c, s, start in zip(p + q, shift * 2, (top, left) * 2, strict=True)]
                if all(0 <= c < size for c, size in zip(at, (h, w) * 2, strict=True)):
                    out[p + q] += kernel[tuple(at)] / 9
    return out
