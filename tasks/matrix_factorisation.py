"""Completing a matrix of low rank from some of its entries."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tasks.base import (
    Batch,
    Params,
    Split,
    Task,
    TaskFamily,
    bounded,
    number_of,
    static,
)
from tasks.checks import require_number, require_range, require_sizes
from tasks.sampling import log_uniform, middle, orthonormal


# Where the entries of each split end, in the order of `SPLITS`.
_ENDS = (0.7, 0.8, 0.9, 1.0)


class MatrixFactorisationSpec(NamedTuple):
    """What differs between the tasks of a family."""

    target: jax.Array  # [rows, cols], of mean square 1
    disturbed: jax.Array  # [rows, cols], the target as it is seen in training
    noise: jax.Array  # shape=(), float32: deviation of the one from the other
    init_scale: jax.Array  # shape=(), float32: of an entry of the initial product


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MatrixFactorisation(TaskFamily):
    r"""Find U and V with $U V^T \approx A$, seeing a few entries of A at a time.

    A has `rank` random singular vectors a side and singular values in a sampled
    spectrum, scaled to a mean square entry of 1. The loss is the mean square error over
    the batch's entries: a random share `seen` of the entries of the split. One fixed
    partition of the entries gives 70 % to training and 10 % to each other split.
    Training entries carry fixed noise, which more factors than A has can learn by
    heart; the entries of other splits are A's own.

    No other family starts beside a saddle, that at zero: from small factors the
    singular vectors are learned one after another, the strongest first. And its minima
    are not isolated: U and V may exchange any invertible matrix.

    Source: Srebro, Rennie and Jaakkola (2005), "Maximum-margin matrix factorization";
    Saxe, McClelland and Ganguli (2014) on the order of learning.

    Attributes:
        rows: of A.
        cols: of A.
        rank: of A.
        factors: columns of U and V.
        seen: the share of a split's entries in a batch, on average.
        spectrum: range of A's singular values before they are scaled, log-uniform and
            independent.
        noise: range of the noise's deviation, log-uniform.
        init_scale: range of the root mean square of the initial product's entries,
            log-uniform.
    """

    rows: int = static(64)
    cols: int = static(64)
    rank: int = static(4)
    factors: int = static(8)
    seen: float = static(0.1)
    spectrum: tuple[float, float] = static((0.1, 1.0))
    noise: tuple[float, float] = static((0.01, 0.3))
    init_scale: tuple[float, float] = static((0.01, 1.0))

    def __post_init__(self) -> None:
        for name in ("rows", "cols", "rank", "factors"):
            require_sizes(f"matrix_factorisation.{name}", [getattr(self, name)])
        if self.rank > min(self.rows, self.cols):
            raise ValueError(
                "matrix_factorisation.rank must be at most the number of rows "
                f"({self.rows}) and of columns ({self.cols}), got {self.rank}"
            )
        require_number("matrix_factorisation.seen", self.seen, 1 / 256, 1.0)
        for name in ("spectrum", "noise", "init_scale"):
            require_range(f"matrix_factorisation.{name}", getattr(self, name))

    def sample(self, key: jax.Array) -> MatrixFactorisationSpec:
        matrix_key, values_key, noise_key, scale_key = jax.random.split(key, 4)
        return self._spec(
            matrix_key,
            log_uniform(values_key, self.spectrum, (self.rank,)),
            log_uniform(noise_key, self.noise),
            log_uniform(scale_key, self.init_scale),
        )

    def nominal(self) -> MatrixFactorisationSpec:
        """One fixed matrix, its singular values evenly spaced in the logarithm."""
        low, high = self.spectrum
        values = jnp.geomspace(low, high, self.rank, dtype=jnp.float32)
        return self._spec(
            jax.random.key(0), values, middle(self.noise), middle(self.init_scale)
        )

    def _spec(
        self, key: jax.Array, values: jax.Array, noise: jax.Array, init_scale: jax.Array
    ) -> MatrixFactorisationSpec:
        left_key, right_key, noise_key = jax.random.split(key, 3)
        left = orthonormal(left_key, self.rows, self.rank)
        right = orthonormal(right_key, self.cols, self.rank)
        scale = jnp.sqrt(self.rows * self.cols / jnp.sum(jnp.square(values)))
        target = (left * (scale * values)[None]) @ right.T
        error = jax.random.normal(noise_key, (self.rows, self.cols))
        return MatrixFactorisationSpec(
            target, target + noise * error, noise, init_scale
        )

    def task(self, spec: MatrixFactorisationSpec) -> Task:
        shape = (self.rows, self.cols)
        # Always the same key: what is held out is part of what a result means.
        place = jax.random.uniform(jax.random.key(0), shape)

        def init(key: jax.Array) -> Params:
            left_key, right_key = jax.random.split(key)
            deviation = jnp.sqrt(spec.init_scale) / self.factors**0.25
            return {
                "u": deviation * jax.random.normal(left_key, (self.rows, self.factors)),
                "v": deviation
                * jax.random.normal(right_key, (self.cols, self.factors)),
            }

        def batch(key: jax.Array, split: Split) -> Batch:
            part = number_of(split)
            ours = (place >= (0.0, *_ENDS)[part]) & (place < _ENDS[part])
            # Not among bytes, where 256, for all, would be 0.
            chance = jax.random.bits(key, shape, jnp.uint8).astype(jnp.int32)
            drawn = ours & (chance < round(256 * self.seen))
            entries = spec.disturbed if split == "train" else spec.target
            return drawn, entries

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            del key  # All randomness is in the batch.
            drawn, entries = batch
            # All entries: a product of whole matrices is faster than gathered rows.
            error = jnp.where(drawn, params["u"] @ params["v"].T - entries, 0.0)
            return jnp.sum(jnp.square(error)) / jnp.maximum(jnp.sum(drawn), 1), {}

        def normalise(loss: jax.Array) -> jax.Array:
            start = 1.0 + jnp.square(spec.init_scale) + jnp.square(spec.noise)
            return bounded(loss, start)

        return Task(init=init, batch=batch, loss=loss, normalise=normalise)
