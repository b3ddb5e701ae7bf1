"""Runs pytorch-cka in the rivals' environment: reads one request a line, answers with seconds and scores."""

import json
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from cka import cka_from_features, compute_cka


class Layers(torch.nn.Module):
    """A network whose layers are given: layer i passes block i of the input on."""

    def __init__(self, first: int, count: int):
        super().__init__()
        self.first = first
        self.blocks = torch.nn.ModuleList(torch.nn.Identity() for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Passes every block on."""
        for i, block in enumerate(self.blocks):
            x_i = block(x[:, self.first + i])
        return x_i


class Batches:
    """Batches that lie in memory, where a DataLoader would spend its own time on collating."""

    def __init__(self, batches: tuple[torch.Tensor, ...]):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.batches)


def main() -> None:
    """Answers requests until the input ends."""
    a, b = (torch.from_numpy(np.load(path)) for path in sys.argv[1:3])
    torch.set_num_threads(int(sys.argv[3]))
    batches = Batches(torch.cat([a, b]).transpose(0, 1).contiguous().split(256))
    models = Layers(0, len(a)), Layers(len(a), len(b))
    names = [f"blocks.{i}" for i in range(len(a))]
    calls = {
        "exact": lambda: cka_from_features(a, b),
        "minibatch": lambda: compute_cka(*models, batches, layers=names, device="cpu", progress=False)[0],
    }
    for line in sys.stdin:
        start = time.perf_counter()
        scores = calls[line.strip()]()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "scores": scores.tolist()}), flush=True)


if __name__ == "__main__":
    main()
