"""Trains and scores as ContraSim's authors do, in the rivals' environment: reads one request a line, answers in JSON.

Re-created from a description of their released code (torch, arXiv 2303.16992), not copied. Training: a Python loop
over layers and models that encodes each block (b, d) by itself with the shared network, divides it by its Frobenius
norm, and stacks all of them; supervised contrastive loss; Adam. Scoring: a double loop over the layers of two models
that encodes both sides again for every pair. Two calls show what torch can do when used well: all blocks in one call
(``batched``), each layer encoded once (``once``).
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

TEMPERATURE = 0.07


class Encoder(torch.nn.Module):
    """Linear layers with ReLU between them, and rows of unit length."""

    def __init__(self, weights: dict[str, np.ndarray]):
        super().__init__()
        self.layers = torch.nn.ModuleList()
        for i in range(len(weights) // 2):
            weight, bias = (torch.from_numpy(weights[f"{name}_{i}"]) for name in ("weight", "bias"))
            layer = torch.nn.Linear(*weight.shape)
            with torch.no_grad():
                layer.weight.copy_(weight.T)
                layer.bias.copy_(bias)
            self.layers.append(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps rows to unit vectors."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return torch.nn.functional.normalize(self.layers[-1](x), dim=1)


def contrastive(z: torch.Tensor) -> torch.Tensor:
    """Supervised contrastive loss of vectors (classes, views, features)."""
    classes, views = z.shape[:2]
    anchors = torch.cat(torch.unbind(z, dim=1))
    logits = anchors @ anchors.T / TEMPERATURE
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    others = 1 - torch.eye(classes * views)
    positives = torch.eye(classes).repeat(views, views) * others
    log_share = logits - torch.log((torch.exp(logits) * others).sum(1, keepdim=True))
    return -((positives * log_share).sum(1) / positives.sum(1)).mean()


def layer_loss(encoder: Encoder, x: torch.Tensor) -> torch.Tensor:
    """Of layers (models, layers, b, d), block by block."""
    blocks = []
    for layer in range(x.shape[1]):
        encoded = [encoder(x[model, layer]) for model in range(x.shape[0])]
        blocks.append(torch.stack([z / torch.linalg.norm(z) for z in encoded]))
    return contrastive(torch.stack(blocks).flatten(2))


def batched_loss(encoder: Encoder, x: torch.Tensor) -> torch.Tensor:
    """The same with all blocks in one call of the network."""
    z = encoder(x.flatten(0, 2)).reshape(*x.shape[:3], -1)
    return contrastive((z / torch.linalg.norm(z, dim=(2, 3), keepdim=True)).transpose(0, 1).flatten(2))


def pair_loss(encoder: Encoder, x: torch.Tensor) -> torch.Tensor:
    """Of two views (2, 1, b, d) of the same examples."""
    return contrastive(torch.stack([encoder(x[0, 0]), encoder(x[1, 0])], dim=1))


LOSSES = {"layers": (layer_loss, 5e-4), "batched": (batched_loss, 5e-4), "pairs": (pair_loss, 0.0)}


def train(kind: str, x: torch.Tensor, weights: dict[str, np.ndarray], steps: int) -> tuple[float, list[float]]:
    """Seconds of some steps from the start, and the loss of each."""
    loss, decay = LOSSES[kind]
    encoder, losses = Encoder(weights), []
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-4, weight_decay=decay)
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(encoder, x)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return time.perf_counter() - start, losses


@torch.no_grad()
def scores(encoder: Encoder, a: torch.Tensor, b: torch.Tensor, *, once: bool = False) -> torch.Tensor:
    """Mean row products of all layer pairs of two models (layers, n, d)."""
    table = torch.zeros(len(a), len(b))
    if once:
        a, b = (torch.stack([encoder(x) for x in side]) for side in (a, b))
    for i, j in itertools.product(range(len(a)), range(len(b))):
        z, other = (a[i], b[j]) if once else (encoder(a[i]), encoder(b[j]))
        table[i, j] = torch.dot(z.flatten(), other.flatten()) / len(z)
    return table


def evaluate(kind: str, x: torch.Tensor, weights: dict[str, np.ndarray]) -> tuple[float, list[list[list[float]]]]:
    """Seconds of scoring every two models of (models, layers, n, d), and the tables."""
    encoder = Encoder(weights)
    start = time.perf_counter()
    tables = [scores(encoder, x[i], x[j], once=kind == "once") for i, j in itertools.combinations(range(len(x)), 2)]
    return time.perf_counter() - start, torch.stack(tables).tolist()


def main() -> None:
    """Answers requests until the input ends."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    held, x, weights = None, torch.empty(0), {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["case"] != held:
            held = request["case"]
            x = torch.from_numpy(np.load(folder / f"{held}.npy"))
            weights = dict(np.load(folder / f"{held}.npz"))
        start = time.process_time()
        if request["kind"] in LOSSES:
            seconds, values = train(request["kind"], x, weights, request["steps"])
        else:
            seconds, values = evaluate(request["kind"], x, weights)
        processor = time.process_time() - start  # with making the network anew, milliseconds
        print(json.dumps({"seconds": seconds, "processor_seconds": processor, "values": values}), flush=True)


if __name__ == "__main__":
    main()
