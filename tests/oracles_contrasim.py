"""Slow twins of ContraSim and its losses, in NumPy float64, written from the papers and the released code."""

import numpy as np


def supervised_contrastive(s, positives, temperature):
    each = []
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i and s[i, j] > -np.inf]
        weights = {j: positives[i, j] for j in others if positives[i, j] > 0}
        if weights:
            largest = max(s[i, j] for j in others) / temperature
            log_sum = largest + np.log(sum(np.exp(s[i, j] / temperature - largest) for j in others))
            each.append(-sum(w * (s[i, j] / temperature - log_sum) for j, w in weights.items()) / sum(weights.values()))
    return np.mean(each) if each else 0.0


def max_margin(s, positives, margin):
    total, weight = 0.0, 0.0
    for i in range(len(s)):
        negatives = [s[i, j] for j in range(len(s)) if j != i and positives[i, j] == 0]
        for p in range(len(s)):
            if p != i and positives[i, p] > 0:
                hinge = max(0.0, margin - s[i, p] + max(negatives)) if negatives else 0.0
                total, weight = total + positives[i, p] * hinge, weight + positives[i, p]
    return total / weight if weight else 0.0


def mean_positive(s, positives):
    pairs = [(positives[i, j], s[i, j]) for i in range(len(s)) for j in range(len(s)) if i != j]
    weight = sum(w for w, _ in pairs)
    return -sum(w * one for w, one in pairs) / weight if weight else 0.0


def encode(trunk, x, residual=False):
    out = np.asarray(x, np.float64)
    for i, layer in enumerate(trunk):
        out = out @ np.asarray(layer["weight"], np.float64) + np.asarray(layer["bias"], np.float64)
        out = np.maximum(out, 0) if i < len(trunk) - 1 else out
    out = out + x if residual else out
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


def relative(x, anchors, whiten=False, ridge=3.0):
    """Cosines to anchors in the metric of the inverse covariance, d x d, plus the ridge."""
    x, anchors = np.asarray(x, np.float64), np.asarray(anchors, np.float64)
    x, anchors = x - anchors.mean(0), anchors - anchors.mean(0)
    k, d = anchors.shape
    metric = np.eye(d)
    if whiten:
        covariance = anchors.T @ anchors / k
        directions = min(k - 1, d)  # as many as k centered points can have
        metric = np.linalg.inv(covariance + ridge * np.trace(covariance) / directions * np.eye(d))
    sizes = [np.sqrt(np.einsum("nd,de,ne->n", z, metric, z)) for z in (x, anchors)]
    return x @ metric @ anchors.T / np.outer(*sizes)


def score(z, other, similarity="dot"):
    if similarity == "distance":
        return np.mean([1 - np.linalg.norm(a - b) for a, b in zip(z, other, strict=True)])
    return np.mean([a @ b for a, b in zip(z, other, strict=True)])


def nearest_rows(x, k):
    x = np.asarray(x, np.float64)
    x = x - x.mean(0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = x @ x.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k], cosines
