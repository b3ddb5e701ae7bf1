"""Slow textbook twins of the similarity measures, in NumPy float64, written from the papers."""

import numpy as np
from scipy import stats


def _center(x):
    x = np.asarray(x, np.float64)
    return x - x.mean(axis=0)


def gram_hsic(k, h, unbiased):
    n = len(k)
    if not unbiased:
        centering = np.eye(n) - np.ones((n, n)) / n
        return np.trace(k @ centering @ h @ centering)
    k, h, one = k - np.diag(np.diag(k)), h - np.diag(np.diag(h)), np.ones(n)
    rest = (one @ k @ one) * (one @ h @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ h @ one)
    return (np.trace(k @ h) + rest) / (n * (n - 3))


def _alignment(k, h, unbiased):
    return gram_hsic(k, h, unbiased) / np.sqrt(gram_hsic(k, k, unbiased) * gram_hsic(h, h, unbiased))


def linear_cka(x, y, unbiased=False):
    x, y = (_center(z) / np.abs(_center(z)).max() for z in (x, y))
    return _alignment(x @ x.T, y @ y.T, unbiased)


def _gaussian(x, bandwidth):
    x = _center(x)
    x = x / np.abs(x).max()
    squared = np.square(x[:, None] - x[None]).sum(-1)
    median = np.sqrt(np.median(squared[np.triu_indices(len(x), 1)]))
    return np.exp(-squared / (2 * (bandwidth * median) ** 2))


def rbf_cka(x, y, bandwidth=1.0, unbiased=False):
    # the median distance is the square root of the median squared distance up to the mean of two middle values
    return _alignment(_gaussian(x, bandwidth), _gaussian(y, bandwidth), unbiased)


def minibatch_cka(x, y, batch_size=256):
    x, y = (_center(z) / np.abs(_center(z)).max() for z in (x, y))
    sums = np.zeros(3)
    for start in range(0, len(x), min(batch_size, len(x))):
        a, b = x[start : start + batch_size], y[start : start + batch_size]
        if len(a) >= 4:
            k, h = a @ a.T, b @ b.T
            sums += [gram_hsic(k, h, True), gram_hsic(k, k, True), gram_hsic(h, h, True)]
    return sums[0] / np.sqrt(sums[1] * sums[2])


def _span(x):
    x = _center(x)
    x = x / np.where(np.abs(x).max(axis=0) > 0, np.abs(x).max(axis=0), 1)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return u[:, s > s[0] * max(x.shape) * 1.2e-7]


def cca(x, y):
    return np.linalg.svd(_span(x).T @ _span(y), compute_uv=False).mean()


def svcca(x, y, variance=0.99):
    def principal(z):
        z = _center(z)
        u, s, _ = np.linalg.svd(z / np.abs(z).max(), full_matrices=False)
        return u[:, : 1 + int(np.argmax(np.cumsum(s**2) / np.sum(s**2) >= variance))]

    return np.linalg.svd(principal(x).T @ principal(y), compute_uv=False).mean()


def pwcca(x, y):
    u, v = _span(x), _span(y)
    left, rho, _ = np.linalg.svd(u.T @ v, full_matrices=False)
    weights = np.abs((u @ left).T @ (_center(x) / np.abs(_center(x)).max())).sum(axis=1)
    return (weights * rho).sum() / weights.sum()


def procrustes(x, y):
    x, y = (_center(z) / np.abs(_center(z)).max() for z in (x, y))
    return np.linalg.norm(x.T @ y, "nuc") / (np.linalg.norm(x) * np.linalg.norm(y))


def rdm(x, dissimilarity="correlation"):
    x = np.asarray(x, np.float64)
    upper = np.triu_indices(len(x), 1)
    if dissimilarity == "euclidean":
        x = _center(x) / np.abs(_center(x)).max()
        return np.sqrt(np.square(x[:, None] - x[None]).sum(-1))[upper]
    x = x / np.abs(x).max()
    x = x - x.mean(axis=1, keepdims=True)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    distances = np.square(x[:, None] - x[None]).sum(-1)[upper] / 2  # 1 - correlation, without its cancellation
    return np.round(distances, 12)  # correlations that are equal on paper are tied


def rsa(x, y, dissimilarity="correlation", comparison="spearman"):
    a, b = rdm(x, dissimilarity), rdm(y, dissimilarity)
    return (stats.spearmanr if comparison == "spearman" else stats.pearsonr)(a, b).statistic


def mutual_knn(x, y, k=None, metric="cosine"):
    k = min(10, len(x) // 4) if k is None else k

    def chances(z):
        """Probability of each example to be among the k nearest of each row when ties are broken at random."""
        z = _center(z)
        z = z / np.abs(z).max()
        if metric == "cosine":
            z = z / np.linalg.norm(z, axis=1, keepdims=True)
        distances = np.round(np.square(z[:, None] - z[None]).sum(-1), 12)
        np.fill_diagonal(distances, np.inf)
        for row in distances:
            last = np.sort(row)[k - 1]
            yield np.where(row < last, 1.0, np.where(row == last, (k - (row < last).sum()) / (row == last).sum(), 0.0))

    return np.mean([(a * b).sum() / k for a, b in zip(chances(x), chances(y), strict=True)])


def linear_predictivity(x, y, folds=5, ridge=1e-3):
    x, y = (
        _center(z) / np.linalg.norm(_center(z) / np.abs(_center(z)).max()) / np.abs(_center(z)).max() for z in (x, y)
    )
    residual = total = 0.0
    for fold in range(folds):
        held = np.arange(len(x)) % folds == fold
        a, b = x - x[~held].mean(0), y - y[~held].mean(0)
        fitted = np.where(np.ptp(x[~held], axis=0) > 0, a[~held], 0)  # a constant feature gets no weight
        penalty = ridge * np.square(fitted).sum() / min(a.shape) or 1.0
        weights = np.linalg.solve(fitted.T @ fitted + penalty * np.eye(a.shape[1]), fitted.T @ b[~held])
        residual += np.square(b[held] - a[held] @ weights).sum()
        total += np.square(b[held]).sum()
    return 1 - residual / total


TWINS = {
    "linear_cka": linear_cka,
    "linear_cka_unbiased": lambda x, y: linear_cka(x, y, unbiased=True),
    "rbf_cka": rbf_cka,
    "rbf_cka_unbiased": lambda x, y: rbf_cka(x, y, unbiased=True),
    "minibatch_cka": minibatch_cka,
    "cca": cca,
    "svcca": svcca,
    "pwcca": pwcca,
    "procrustes": procrustes,
    "rsa": rsa,
    "mutual_knn": mutual_knn,
    "linear_predictivity": linear_predictivity,
}
