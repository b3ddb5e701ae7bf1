"""Is my wide contrastive network just a kernel, or PCA?  arXiv 2403.08673, its claims put to the test."""
