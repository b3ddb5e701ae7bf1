"""Made-up comparisons for the tests of tables, pages and gates: two models that deepen alike, measures that differ."""

import numpy as np

from repsim_jax.similarity.comparison import ByExample, Comparison

MEASURES = (
    "linear_cka_unbiased",
    "linear_cka",
    "rbf_cka",
    "rbf_cka_unbiased",
    "minibatch_cka",
    "cca",
    "svcca",
    "pwcca",
    "procrustes",
    "rsa",
    "mutual_knn",
    "linear_predictivity",
)
# Each does harm where HTML, JavaScript, mathtext, rich markup, a spreadsheet, a terminal or a path took it at its word.
HOSTILE = (
    "<script>document.title='owned'</script>",
    "</title><script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "' onmouseover='document.title=1' x='",
    "<svg/onload=document.title='owned'>",
    "{{ 7 * 7 }}{% raw %}",
    "]]></style><style>body{display:none}</style>",
    "&lt;script&gt;&#x3c;",
    "javascript:document.title='owned'",
    "$\\foo$ a $x_{ $ b \\input{/etc/passwd}",
    "[bold red]x[/bold red][/]",
    "\x1b[2J\x1b]0;owned\x07\x9b31m\x00",
    '=HYPERLINK("http://localhost","x")',
    "+1+1",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "../../etc/passwd",
    "\u202egnp.exe\u2066",
    "layer\nwith\r\nlines\ttabs",
    "编码器/块_3/注意力🎉",
    "\ud800lone",
    "x" * 400,
)


def made_up(
    num_a: int = 6,
    num_b: int = 8,
    measures: tuple[str, ...] = ("linear_cka_unbiased", "rsa", "mutual_knn"),
    *,
    num_examples: int = 1000,
    width: int = 64,
    name_a: str = "clip-vit-b16",
    name_b: str = "efficientnet-lite0",
    layers_a: tuple[str, ...] | None = None,
    layers_b: tuple[str, ...] | None = None,
    noise: float = 0.06,
    seed: int = 0,
    **others: object,
) -> Comparison:
    """A comparison whose similar layers lie along the diagonal of depth."""
    draws = np.random.default_rng(seed)
    layers_a = layers_a or tuple(f"block_{i}/mlp" for i in range(num_a))
    layers_b = layers_b or tuple(f"stage_{j // 4}/block_{j}" for j in range(num_b))
    depth_a, depth_b = (np.linspace(0, 1, len(layers)) for layers in (layers_a, layers_b))
    near = np.exp(-8 * (depth_a[:, None] - depth_b[None, :] ** 1.3) ** 2) * (0.9 - 0.4 * depth_b)
    values = [
        np.clip(near ** draws.uniform(0.6, 1.6) + noise * draws.normal(size=near.shape), 0.001, 0.999) for _ in measures
    ]
    return Comparison(
        name_a=name_a,
        name_b=name_b,
        layers_a=layers_a,
        layers_b=layers_b,
        measures=measures,
        values=np.asarray(values),
        num_examples=num_examples,
        widths_a=(width,) * len(layers_a),
        widths_b=(width,) * len(layers_b),
        **others,  # pyright: ignore[reportArgumentType]
    )


def by_example(layers: tuple[str, ...], ids: tuple[str, ...], seed: int = 0) -> ByExample:
    """Scores of single examples under two versions that differ more the deeper one looks."""
    draws = np.random.default_rng(seed)
    scores = 1 - np.abs(draws.normal(size=(len(layers), len(ids)))) * np.linspace(0.02, 0.3, len(layers))[:, None]
    return ByExample("contrasim", layers, ids, scores, 0.1)


def hostile(measures: tuple[str, ...] = ("linear_cka", "cca")) -> Comparison:
    """A comparison in which every name is an attack or an accident."""
    return made_up(
        measures=measures,
        name_a=HOSTILE[1],
        name_b=HOSTILE[9] + HOSTILE[11],
        layers_a=HOSTILE,
        layers_b=tuple(reversed(HOSTILE)),
        num_examples=100,
        notes=HOSTILE[:4],
        settings={key: key for key in HOSTILE},
        by_example=by_example(HOSTILE, HOSTILE),
    )
