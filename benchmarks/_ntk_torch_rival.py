"""Tangent kernels by torch.func, in the rivals' environment: reads the name of a case a line, answers in JSON.

Jacobians by ``vmap(jacrev)``, contracted parameter by parameter and averaged over the outputs, as PyTorch's tutorial on
neural tangent kernels does it (written anew from its description).
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

Params = tuple[torch.Tensor, ...]


def two_layer(params: Params, x: torch.Tensor) -> torch.Tensor:
    """Of one example, (d,) to (o,)."""
    v, w = params
    return torch.relu(x @ v) @ w / w.shape[0] ** 0.5


def mlp(params: Params, x: torch.Tensor) -> torch.Tensor:
    """Of one example, (d,) to (o,)."""
    for w in params[:-1]:
        x = torch.relu(x @ w)
    return x @ params[-1]


def cnn(params: Params, x: torch.Tensor) -> torch.Tensor:
    """Of one image (h, w, 3) to (o,); "SAME" padding with stride 2 on even sides is one zero after and none before."""
    x = x.permute(2, 0, 1)[None]
    for w, stride in zip(params[:3], (1, 2, 2), strict=True):
        x = torch.nn.functional.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))
        x = torch.relu(torch.nn.functional.conv2d(x, w.permute(3, 2, 0, 1), stride=stride))
    return x[0].permute(1, 2, 0).reshape(-1) @ params[3]


def kernel(function: Callable[[Params, torch.Tensor], torch.Tensor], params: Params, x: torch.Tensor) -> torch.Tensor:
    """The traced kernel (n, n)."""
    jacobians = torch.func.vmap(torch.func.jacrev(function), (None, 0))(params, x)
    rows = [j.flatten(2) for j in jacobians]
    return sum(torch.einsum("nop,mop->nm", j, j) / j.shape[1] for j in rows)


def main() -> None:
    """Answers requests until the input ends."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        name = line.strip()
        with np.load(folder / f"{name}.npz") as held:
            x = torch.from_numpy(held["x"])
            params = tuple(torch.from_numpy(held[f"p{i}"]) for i in range(len(held.files) - 1))
        function = next(one for one in (two_layer, mlp, cnn) if name.startswith(one.__name__))
        start = time.perf_counter(), time.process_time()
        found = kernel(function, params, x)
        spent = {"seconds": time.perf_counter() - start[0], "processor_seconds": time.process_time() - start[1]}
        np.save(folder / "kernel.npy", found.numpy())
        print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    main()
