"""AdaHessian: Adam on the diagonal of the Hessian."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive, require_positive_int, require_range
from l2o.inspect.curvature import hessian_vector_product, hutchinson_diagonal
from l2o.inspect.vectors import widen


class HutchinsonState(NamedTuple):
    """State of `hutchinson_diagonal_of_loss`."""

    estimates: jax.Array  # shape=(), dtype=jnp.int32: made so far


class AdaHessianState(NamedTuple):
    """State of `scale_by_adahessian`."""

    step: jax.Array  # shape=(), dtype=jnp.int32: updates made
    hessians: jax.Array  # shape=(), dtype=jnp.int32: Hessian diagonals in `nu`
    mu: optax.Updates  # average of the gradient
    nu: optax.Updates  # average of the squared, spatially averaged diagonal
    hessian_state: Any  # of what estimates the diagonal


def hutchinson_diagonal_of_loss(
    probes: int = 1, seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Hutchinson's estimate of the diagonal of the Hessian of the loss.

    $$ \frac1n \sum_{i=1}^n z_i \odot (H z_i), \qquad z_i \ \text{of entries} \ \pm 1 $$

    Unbiased; exact where the Hessian is diagonal. A product with the Hessian costs
    about two gradients.

    Args:
        probes: n.
        seed: of the probes; update t draws its own.

    Returns:
        A transformation whose updates are the estimate, whatever it is fed. Its
        `update` needs `params` and `obj_fn`, the loss as a function of them.
    """
    require_positive_int("probes", probes)

    def init(params: optax.Params) -> HutchinsonState:
        del params
        return HutchinsonState(jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        obj_fn: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, HutchinsonState]:
        del updates, extra_args
        if params is None or obj_fn is None:
            missing = "params" if params is None else "obj_fn, the loss of params"
            raise ValueError(
                f"the Hessian's diagonal needs {missing} in every update, got none"
            )
        diagonal = hutchinson_diagonal(
            lambda z: hessian_vector_product(obj_fn, params, z),
            params,
            jax.random.fold_in(jax.random.key(seed), state.estimates),
            probes,
        )
        return diagonal, HutchinsonState(state.estimates + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_adahessian(
    b1: float | jax.Array = 0.9,
    b2: float | jax.Array = 0.999,
    eps: float | jax.Array = 1e-4,
    hessian_power: float | jax.Array = 1.0,
    block_size: int = 1,
    update_interval: int = 1,
    hessian_diagonal_fn: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The direction of `adahessian`, which has the arguments."""
    if not isinstance(eps, jax.Array):  # As optax.inject_hyperparams makes it.
        require_positive("eps", eps)
    ranges = (
        ("b1", b1, 1.0 - 1e-6),
        ("b2", b2, 1.0 - 1e-6),
        ("hessian_power", hessian_power, 1.0),
    )
    for name, value, high in ranges:
        if not isinstance(value, jax.Array):  # Which may be traced.
            require_range(name, value, 0.0, high)
    require_positive_int("block_size", block_size)
    require_positive_int("update_interval", update_interval)
    diagonal_of = optax.with_extra_args_support(
        hessian_diagonal_fn or hutchinson_diagonal_of_loss()
    )

    def init(params: optax.Params) -> AdaHessianState:
        for p in jax.tree.leaves(params):
            _require_blocks(p.shape, block_size)
        return AdaHessianState(
            step=jnp.zeros((), jnp.int32),
            hessians=jnp.zeros((), jnp.int32),
            mu=optax.tree.zeros_like(params),
            # The precision in which the diagonal comes.
            nu=optax.tree.zeros_like(widen(params)),
            hessian_state=diagonal_of.init(params),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, AdaHessianState]:
        def look(state: AdaHessianState) -> tuple[Any, Any, jax.Array]:
            diagonal, hessian_state = diagonal_of.update(
                updates, state.hessian_state, params, **extra_args
            )
            averaged = jax.tree.map(lambda d: _averaged(d, block_size), diagonal)
            nu = optax.tree.update_moment(averaged, state.nu, b2, 2)
            return nu, hessian_state, state.hessians + 1

        nu, hessian_state, hessians = jax.lax.cond(
            state.step % update_interval == 0,
            look,
            lambda state: (state.nu, state.hessian_state, state.hessians),
            state,
        )
        count = state.step + 1
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        of_mu, of_nu = _correction(b1, count), _correction(b2, hessians)

        def step(m: jax.Array, v: jax.Array) -> jax.Array:
            root = jnp.sqrt(v / of_nu) ** hessian_power
            return (m / of_mu / (root + eps)).astype(m.dtype)

        steps = jax.tree.map(step, mu, nu)
        return steps, AdaHessianState(count, hessians, mu, nu, hessian_state)

    return optax.GradientTransformationExtraArgs(init, update)


def adahessian(
    learning_rate: optax.ScalarOrSchedule,
    b1: float | jax.Array = 0.9,
    b2: float | jax.Array = 0.999,
    eps: float | jax.Array = 1e-4,
    weight_decay: float | jax.Array = 0.0,
    hessian_power: float | jax.Array = 1.0,
    block_size: int = 1,
    update_interval: int = 1,
    hessian_diagonal_fn: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with the diagonal of the Hessian in the place of the gradient's square.

    With the gradient $g_t$ and an estimate $D_t$ of the Hessian's diagonal,

    $$ m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
       v_t = \beta_2 v_{t-1} + (1 - \beta_2) \bar D_t^2 $$
    $$ p \leftarrow p - \eta \left( \frac{m_t / (1 - \beta_1^t)}
       {\sqrt{v_t / (1 - \beta_2^t)}^{\,k} + \epsilon} + \lambda p \right) $$

    where $\bar D_t$ is the mean of $|D_t|$ over the places of a convolution's kernel
    (all its axes but the last two), over blocks of `block_size` inputs of a dense
    kernel, and $|D_t|$ itself for vectors. With an interval of K, D is estimated at
    every K-th update only, and $v$ and its correction count the estimates.

    Args:
        learning_rate: $\eta$; the authors' is 0.15. Scalar or schedule.
        b1: $\beta_1$. As `b2` and `hessian_power`, checked unless it is an array.
        b2: $\beta_2$.
        eps: $\epsilon$.
        weight_decay: $\lambda$, decoupled.
        hessian_power: k, between 0 and 1.
        block_size: inputs of a dense kernel that share an average; divides the number
            of inputs of all of them.
        update_interval: K.
        hessian_diagonal_fn: transformation whose updates are $D_t$;
            `hutchinson_diagonal_of_loss` with one probe by default. What its `update`
            needs is passed on: for the default, `obj_fn`, the loss of this step as a
            function of the parameters, as `optax.contrib.sophia` takes it.

    Returns:
        The optimizer.

    Raises:
        ValueError: `block_size` does not divide the inputs of a dense kernel (when it
            is initialised), or `obj_fn` is missing.

    Example:
        tx = l2o.adahessian(0.15)
        updates, state = tx.update(
            grads, state, params, obj_fn=lambda params: loss(params, batch)
        )

    Source: Yao et al. 2021, "AdaHessian: an adaptive second order optimizer for machine
    learning", arXiv 2006.00719, and its published code, where magnitudes are averaged.
    """
    return optax.chain(
        scale_by_adahessian(
            b1=b1,
            b2=b2,
            eps=eps,
            hessian_power=hessian_power,
            block_size=block_size,
            update_interval=update_interval,
            hessian_diagonal_fn=hessian_diagonal_fn,
        ),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def _require_blocks(shape: Sequence[int], block_size: int) -> None:
    if len(shape) == 2 and shape[0] % block_size:
        raise ValueError(
            "block_size must divide the inputs of every dense kernel, "
            f"got {block_size} for one of shape {tuple(shape)}"
        )


def _correction(decay: float | jax.Array, count: jax.Array) -> jax.Array:
    """`1 - decay^count`, to the last bits where that is small."""
    log = jnp.log1p(-(1.0 - decay))
    return -jnp.expm1(log * count.astype(jnp.float32))


def _averaged(diagonal: jax.Array, block_size: int) -> jax.Array:
    """Magnitudes, averaged over the neighbours that share one."""
    size = jnp.abs(diagonal)
    if size.ndim < 2:
        return size
    if size.ndim == 2:
        inputs, outputs = size.shape
        blocks = size.reshape(inputs // block_size, block_size, outputs)
        means = jnp.mean(blocks, axis=1, keepdims=True)
        return jnp.broadcast_to(means, blocks.shape).reshape(size.shape)
    places = tuple(range(size.ndim - 2))
    return jnp.broadcast_to(jnp.mean(size, axis=places, keepdims=True), size.shape)
