"""Which stored training examples matter most to a query? Indexes of features, exact on disk, or approximate."""

from repsim_jax.influence.search.exact import Exact
from repsim_jax.influence.search.features import (
    QueryFeatures,
    TopInfluence,
    batch_features,
    measured_features,
    query_features,
    store_features,
    top_influence,
)
from repsim_jax.influence.search.index import Ends, Found, Index, recall
from repsim_jax.influence.search.inverted import Inverted

__all__ = [
    "Ends",
    "Exact",
    "Found",
    "Index",
    "Inverted",
    "QueryFeatures",
    "TopInfluence",
    "batch_features",
    "measured_features",
    "query_features",
    "recall",
    "store_features",
    "top_influence",
]
