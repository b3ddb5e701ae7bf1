"""Linear algebra that every instrument stands on: centering, norms of products, distances, ranks, orthonormal bases."""

from repsim_jax.linalg.bases import Basis, compact, orthonormal_basis
from repsim_jax.linalg.clusters import Clusters, spherical_kmeans
from repsim_jax.linalg.distances import SplitRows, pairwise_sq_distances, split_rows, sq_distances, unit_rows
from repsim_jax.linalg.krylov import Ritz, lanczos
from repsim_jax.linalg.largest import largest
from repsim_jax.linalg.nearest import Nearest, nearest_by_views, nearest_rows
from repsim_jax.linalg.pairs import Stacks, all_pairs, in_layer_order, mapped, stacked, unstacked
from repsim_jax.linalg.precision import precise_jit
from repsim_jax.linalg.products import batch_squared_products, squared_products
from repsim_jax.linalg.ranks import average_ranks, round_significant
from repsim_jax.linalg.scaling import center, power_of_two, power_of_two_scale, standardize
from repsim_jax.linalg.symmetric import mirrored, upper_strips
from repsim_jax.linalg.tiles import SquaredProducts, TileSums, row_blocks, tile_products, tile_sums

__all__ = [
    "Basis",
    "Clusters",
    "Nearest",
    "Ritz",
    "SplitRows",
    "SquaredProducts",
    "Stacks",
    "TileSums",
    "all_pairs",
    "average_ranks",
    "batch_squared_products",
    "center",
    "compact",
    "in_layer_order",
    "lanczos",
    "largest",
    "mapped",
    "mirrored",
    "nearest_by_views",
    "nearest_rows",
    "orthonormal_basis",
    "pairwise_sq_distances",
    "power_of_two",
    "power_of_two_scale",
    "precise_jit",
    "round_significant",
    "row_blocks",
    "spherical_kmeans",
    "split_rows",
    "sq_distances",
    "squared_products",
    "stacked",
    "standardize",
    "tile_products",
    "tile_sums",
    "unit_rows",
    "unstacked",
    "upper_strips",
]
