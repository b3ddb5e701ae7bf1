"""One small network, written in every framework with the same weights, and once more in plain NumPy as the oracle."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

PARTS = ("conv", "pool", "fc", "head")


class Weights(NamedTuple):
    kernel: np.ndarray  # (3, 3, c_in, c_out)
    bias: np.ndarray
    fc: np.ndarray
    fc_bias: np.ndarray
    head: np.ndarray
    head_bias: np.ndarray


def weights(seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    shapes = [(3, 3, 2, 5), (5,), (5, 6), (6,), (6, 3), (3,)]
    return Weights(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def images(n: int = 7, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 6, 4, 2)).astype(np.float32)


def numpy_twin(w: Weights, x: np.ndarray) -> dict[str, np.ndarray]:
    """Convolution as loops over the window in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1] - 2, x.shape[2] - 2
    conv = w.bias + sum(
        np.einsum("nhwc,co->nhwo", x[:, i : i + height, j : j + width], w.kernel[i, j])
        for i in range(3)
        for j in range(3)
    )
    pool = np.maximum(conv, 0).mean((1, 2))
    fc = np.tanh(pool @ w.fc + w.fc_bias)
    return {"conv": conv, "pool": pool, "fc": fc, "head": fc @ w.head + w.head_bias}


class Pool(nnx.Module):
    def __call__(self, x):
        return nnx.relu(x).mean((1, 2))


class TanhLinear(nnx.Module):
    def __init__(self, w, b):
        self.inner = nnx.Linear(*w.shape, rngs=nnx.Rngs(0))
        self.inner.kernel[...], self.inner.bias[...] = w, b

    def __call__(self, x):
        return jnp.tanh(self.inner(x))


class NnxTwin(nnx.Module):
    def __init__(self, w: Weights):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 5, (3, 3), rngs=rngs)
        self.conv.kernel[...], self.conv.bias[...] = w.kernel, w.bias
        self.pool = Pool()
        self.fc = TanhLinear(w.fc, w.fc_bias)
        self.dropout = nnx.Dropout(0.9, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)
        self.head.kernel[...], self.head.bias[...] = w.head, w.head_bias

    def __call__(self, x):
        return self.head(self.dropout(self.fc(self.pool(self.conv(x)))))


class LinenFc(linen.Module):
    @linen.compact
    def __call__(self, x):
        return jnp.tanh(linen.Dense(6, name="inner")(x))


class LinenPool(linen.Module):
    def __call__(self, x):
        return linen.relu(x).mean((1, 2))


class LinenTwin(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(5, (3, 3), name="conv")(x)
        x = LinenFc(name="fc")(LinenPool(name="pool")(x))
        x = linen.Dropout(0.9, deterministic=not train)(x)
        return linen.Dense(3, name="head")(x)


def linen_twin(w: Weights):
    params = {
        "conv": {"kernel": w.kernel, "bias": w.bias},
        "fc": {"inner": {"kernel": w.fc, "bias": w.fc_bias}},
        "head": {"kernel": w.head, "bias": w.head_bias},
    }
    return LinenTwin(), {"params": params}


def function_twin(w: Weights):
    def network(w, x):
        conv = w.bias + jax.lax.conv_general_dilated(
            x, w.kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        pool = jax.nn.relu(conv).mean((1, 2))
        fc = jnp.tanh(pool @ w.fc + w.fc_bias)
        return {"conv": conv, "pool": pool, "fc": fc, "head": fc @ w.head + w.head_bias}

    return network, w


def onnx_twin(w: Weights, path, *, batch: int | str = "batch", external: bool = False):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    held = {"kernel": np.ascontiguousarray(w.kernel.transpose(3, 2, 0, 1)), **{k: getattr(w, k) for k in w._fields[1:]}}
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["average"]),
        helper.make_node("Flatten", ["average"], ["pool"]),
        helper.make_node("Gemm", ["pool", "fc", "fc_bias"], ["fc_in"]),
        helper.make_node("Tanh", ["fc_in"], ["fc_out"]),
        helper.make_node("Gemm", ["fc_out", "head", "head_bias"], ["head_out"]),
        helper.make_node("ArgMax", ["head_out"], ["winner"], axis=1),
        helper.make_node("Identity", ["head"], ["not_of_the_input"]),
    ]
    graph = helper.make_graph(
        nodes,
        "twin",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2, 6, 4])],
        [helper.make_tensor_value_info("winner", TensorProto.INT64, [batch, 1])],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def torch_twin(w: Weights):
    import torch

    class Pool(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 5, 3, padding=1)
            self.relu = torch.nn.ReLU(inplace=True)  # overwrites what the convolution returned
            self.pool = Pool()
            self.fc = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh())
            self.dropout = torch.nn.Dropout(0.9)
            self.head = torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.dropout(self.fc(self.pool(self.relu(self.conv(x))))))

    twin = Twin()
    held = {
        "conv.weight": w.kernel.transpose(3, 2, 0, 1),
        "conv.bias": w.bias,
        "fc.0.weight": w.fc.T,
        "fc.0.bias": w.fc_bias,
        "head.weight": w.head.T,
        "head.bias": w.head_bias,
    }
    twin.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in held.items()})
    return twin
