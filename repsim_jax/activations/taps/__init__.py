"""One file per framework whose hidden layers can be read; ``repsim_jax.activations.tap.tap`` chooses."""
