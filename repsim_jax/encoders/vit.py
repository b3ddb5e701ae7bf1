"""What does a Vision Transformer compute? Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021).

One pre-LN transformer covers ViT, DINOv2 (LayerScale), CLIP's image tower (a norm before the first block, QuickGELU, a
projection) and ViT-MAE's encoder. Every hidden layer, and the queries, keys and values of every block, are outputs of
submodules: "stem", "block_3", "block_3/attention/query", "norm", "head".
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from repsim_jax.encoders._images import as_images
from repsim_jax.encoders.transformer import ACTIVATIONS, Attention, Mlp


@dataclass(frozen=True)
class ViTConfig:
    """The shape of a Vision Transformer; the defaults are ViT-B/16 at 224 pixels.

    Attributes:
        image_size: Side of the square image whose patch grid the learned positions belong to, in pixels.
        patch_size: Side of a patch, in pixels.
        width: Width d of the tokens.
        num_layers: Number of blocks.
        num_heads: Attention heads per block; must divide ``width``.
        mlp_width: Hidden width of each block's MLP.
        activation: A key of ``ACTIVATIONS``.
        norm_epsilon: Added to the variance in every LayerNorm.
        patch_bias: Whether the patch projection has a bias.
        qkv_bias: Whether queries, keys and values have biases.
        layer_scale: Whether each branch is multiplied by a learned vector (DINOv2).
        pre_norm: Whether the tokens are normalized before the first block (CLIP).
        embedding_width: Width q of the projected class token (CLIP), or None for no projection.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    patch_bias: bool = True
    qkv_bias: bool = True
    layer_scale: bool = False
    pre_norm: bool = False
    embedding_width: int | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"ViTConfig wants an activation of {', '.join(ACTIVATIONS)}; got {self.activation!r}.")
        if min(self.patch_size, self.width, self.num_layers, self.num_heads, self.mlp_width) < 1:
            raise ValueError(f"ViTConfig wants positive sizes; got {self}.")
        if self.image_size < self.patch_size:
            raise ValueError(f"ViTConfig wants image_size >= patch_size; got {self.image_size} < {self.patch_size}.")
        if self.width % self.num_heads:
            raise ValueError(
                f"ViTConfig wants num_heads to divide width; got width {self.width}, {self.num_heads} heads."
            )

    @property
    def grid(self) -> int:
        """Patches along one side of the image whose positions were learned."""
        return self.image_size // self.patch_size


class PatchEmbed(nnx.Module):
    """Cuts an image into patches and projects each: (b, height, width, 3) to (b, rows, columns, d)."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        side = (config.patch_size, config.patch_size)
        self.projection = nnx.Conv(
            3, config.width, side, strides=side, padding="VALID", use_bias=config.patch_bias, rngs=rngs
        )

    def __call__(self, images: Float[Array, "b height width 3"]) -> Float[Array, "b rows columns d"]:
        """Projects each patch of images (b, height, width, 3)."""
        return self.projection(images)


class Stem(nnx.Module):
    """Patches plus class token plus positions: the tokens that enter the first block (b, 1 + rows * columns, d)."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        noise = nnx.initializers.truncated_normal(0.02)  # the spread of the paper's released code
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.class_token = nnx.Param(noise(rngs.params(), (config.width,)))
        self.class_position = nnx.Param(noise(rngs.params(), (config.width,)))
        self.positions = nnx.Param(noise(rngs.params(), (config.grid, config.grid, config.width)))
        self.pre_norm = _norm(config, rngs) if config.pre_norm else None

    def __call__(self, images: Float[Array, "b height width 3"]) -> Float[Array, "b t d"]:
        """Makes tokens (b, t, d) of images (b, height, width, 3); the class token comes first."""
        patches = self.patch_embed(images)
        b, rows, columns, d = patches.shape
        patches = patches + resize_positions(self.positions[...], rows, columns)
        first = jnp.broadcast_to(self.class_token[...] + self.class_position[...], (b, 1, d))
        tokens = jnp.concatenate([first.astype(patches.dtype), patches.reshape(b, rows * columns, d)], axis=1)
        return tokens if self.pre_norm is None else self.pre_norm(tokens)


class LayerScale(nnx.Module):
    """Multiplies every channel by a learned number; Touvron et al. (ICCV 2021)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.full((width,), 1e-5))  # the paper's start for deep networks, and DINOv2's

    def __call__(self, tokens: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Scales tokens (b, t, d) by the vector (d,)."""
        return tokens * self.scale[...]


class Block(nnx.Module):
    """A pre-LN transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.norm_attention = _norm(config, rngs)
        self.attention = Attention(config.width, config.num_heads, qkv_bias=config.qkv_bias, rngs=rngs)
        self.scale_attention = LayerScale(config.width) if config.layer_scale else None
        self.norm_mlp = _norm(config, rngs)
        self.mlp = Mlp(config.width, config.mlp_width, config.activation, rngs=rngs)
        self.scale_mlp = LayerScale(config.width) if config.layer_scale else None

    def __call__(self, tokens: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Adds both branches to tokens (b, t, d)."""
        branch = self.attention(self.norm_attention(tokens))
        tokens = tokens + (branch if self.scale_attention is None else self.scale_attention(branch))
        branch = self.mlp(self.norm_mlp(tokens))
        return tokens + (branch if self.scale_mlp is None else self.scale_mlp(branch))


class ViT(nnx.Module):
    """A Vision Transformer, channels last; images of any size that holds a patch.

    Args:
        config: Its shape.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.stem = Stem(config, rngs=rngs)
        for index in range(config.num_layers):
            setattr(self, f"block_{index}", Block(config, rngs=rngs))
        self.norm = _norm(config, rngs)
        projected = config.embedding_width
        self.head = nnx.Linear(config.width, projected, use_bias=False, rngs=rngs) if projected else None

    def __call__(self, images: Shaped[Array | np.ndarray, "..."]) -> Float[Array, "b q"]:
        """Embeds images.

        Args:
            images: Normalized pixels (b, height, width, 3); where height and width are no multiples of the patch size,
                the rest at the lower and right edge is not seen.

        Returns:
            The normalized class token (b, d), projected to (b, q) where the configuration says so.

        Raises:
            ValueError: If the images are not (b, height, width, 3), not floating, or smaller than a patch.
        """
        images = as_images(images, "ViT", least=self.config.patch_size)
        tokens = self.stem(images)
        for index in range(self.config.num_layers):
            tokens = getattr(self, f"block_{index}")(tokens)
        token = self.norm(tokens)[:, 0]
        return token if self.head is None else self.head(token)


def hidden_layers(config: ViTConfig) -> tuple[str, ...]:
    """Names of a ViT's residual stream, in depth order.

    Args:
        config: Its shape.

    Returns:
        "stem", every block, and "head" where the class token is projected, else "norm".
    """
    blocks = tuple(f"block_{index}" for index in range(config.num_layers))
    return ("stem", *blocks, "head" if config.embedding_width else "norm")


def resize_positions(
    positions: Float[Array, "rows columns d"], rows: int, columns: int
) -> Float[Array, "rows_wanted columns_wanted d"]:
    """Resizes a grid of learned positions by bicubic interpolation, as static matrices on either side.

    Args:
        positions: The learned grid (rows, columns, d).
        rows: Rows wanted.
        columns: Columns wanted.

    Returns:
        The grid (rows, columns, d).

    Source:
        PyTorch's ``interpolate(mode="bicubic", align_corners=False)``, which all released ViTs were resized with.
    Differs:
        From ``jax.image.resize``, whose bicubic kernel has a = -0.5 and which smooths when it shrinks.
    """
    if positions.shape[:2] == (rows, columns):
        return positions
    down = jnp.asarray(bicubic_matrix(positions.shape[0], rows), positions.dtype)
    across = jnp.asarray(bicubic_matrix(positions.shape[1], columns), positions.dtype)
    return jnp.einsum("ai,bj,ijd->abd", down, across, positions, precision=jax.lax.Precision.HIGHEST)


def bicubic_matrix(num_in: int, num_out: int) -> np.ndarray:
    """The linear map that resizes a signal by Keys' cubic convolution with a = -0.75 and clamped edges.

    Args:
        num_in: Samples of the signal.
        num_out: Samples wanted.

    Returns:
        The matrix (num_out, num_in), float64; its rows sum to one.

    Source:
        Keys, "Cubic convolution interpolation for digital image processing" (1981), eq. 4; a as in PyTorch and OpenCV.
    """
    a = -0.75
    centers = (np.arange(num_out) + 0.5) * num_in / num_out - 0.5
    taps = np.floor(centers).astype(int)[:, None] + np.arange(-1, 3)
    x = np.abs(centers[:, None] - taps)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    matrix = np.zeros((num_out, num_in))
    np.add.at(matrix, (np.arange(num_out)[:, None], taps.clip(0, num_in - 1)), np.where(x <= 1, near, far))
    return matrix


def _norm(config: ViTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.width, epsilon=config.norm_epsilon, use_fast_variance=False, rngs=rngs)
