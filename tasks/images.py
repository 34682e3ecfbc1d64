"""What networks on images share: the form of the data, and convolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.data.arrays import Labelled


def image_shape(data: Labelled) -> tuple[int, int, int]:
    """Height, width and channels of the images.

    Raises:
        ValueError: the data are no images.
    """
    if len(data.shape) != 3:
        raise ValueError(
            "data must be images [height, width, channels], "
            f"got examples of shape {data.shape}"
        )
    height, width, channels = data.shape
    return height, width, channels


class Convolution(nn.Module):
    """What `flax.linen.Conv` with kernels of 3 x 3 and padding "SAME" computes.

    The kernel has the same shape, `[3, 3, channels in, channels out]`. Of many such
    networks side by side, each with its own kernel, XLA makes one grouped convolution,
    which is slow on CPUs; a product of patches and a matrix stays one.

    Attributes:
        channels: of the output.
        stride: places from one patch to the next, along either side.
        use_bias: whether a constant is added to every channel.
    """

    channels: int
    stride: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Images `[examples, rows, columns, channels]`, smaller by the stride."""
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (3, 3, x.shape[-1], self.channels),
        )
        y = _patches(x, self.stride) @ kernel.reshape(-1, self.channels)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.channels,))
            y = y + jnp.broadcast_to(bias, y.shape)
        return y


def _patches(x: jax.Array, stride: int) -> jax.Array:
    """What is seen of `[examples, rows, columns, channels]` through 3 x 3 windows.

    Returns:
        `[examples, rows, columns, 9 * channels]`, fewer rows and columns by the stride.
    """
    sides = x.shape[1:3]
    counts = [-(-side // stride) for side in sides]
    # The last window ends with the last pixel, or one past it.
    missing = [
        max((count - 1) * stride + 3 - side, 0)
        for count, side in zip(counts, sides, strict=True)
    ]
    around = [(total // 2, total - total // 2) for total in missing]
    x = jnp.pad(x, ((0, 0), *around, (0, 0)))
    rows, columns = ((count - 1) * stride + 1 for count in counts)
    return jnp.concatenate(
        [
            x[:, i : i + rows : stride, j : j + columns : stride]
            for i in range(3)
            for j in range(3)
        ],
        axis=-1,
    )
