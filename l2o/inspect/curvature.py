"""Products with the Hessian and the Gauss-Newton matrix, their diagonal and trace."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive_int
from l2o.inspect.vectors import Product, Tree, on_vectors, widen


def hessian_vector_product(
    loss: Callable[..., jax.Array], params: Tree, vector: Tree, *args: Any
) -> Tree:
    r"""The Hessian of the loss times a vector.

    $$ H v = \frac{d}{dt} \nabla L(\theta + t v) \Big|_{t=0} $$

    Forward mode over reverse mode: about two gradients of time, and the memory of a
    small multiple of one.

    Args:
        loss: `(params, *args) -> scalar`.
        params: where the Hessian is taken.
        vector: of the shapes and dtypes of `params`.
        *args: what else the loss takes.

    Returns:
        A tree like `params`.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """
    gradient = jax.grad(lambda p: loss(p, *args))
    return jax.jvp(gradient, (params,), (vector,))[1]


def ggn_vector_product(
    model: Callable[[Tree, Any], Tree],
    loss: Callable[..., jax.Array],
    params: Tree,
    vector: Tree,
    inputs: Any,
    *targets: Any,
) -> Tree:
    r"""The generalised Gauss-Newton matrix times a vector.

    $$ G v = J^\top H_{out} J v $$

    with $J$ the Jacobian of the outputs in the parameters and $H_{out}$ the Hessian of
    the loss in the outputs. It is the Hessian of the loss with the model linearised,
    positive semi-definite where the loss is convex in the outputs; for a cross-entropy
    or a squared error it is the Fisher matrix.

    Args:
        model: `(params, inputs) -> outputs`, an array or a tree.
        loss: `(outputs, *targets) -> scalar`.
        params: where the matrix is taken.
        vector: of the shapes and dtypes of `params`.
        inputs: of the model.
        *targets: what else the loss takes.

    Returns:
        A tree like `params`.

    Source: Schraudolph 2002, "Fast curvature matrix-vector products for second-order
    gradient descent".
    """
    outputs = lambda p: model(p, inputs)
    out, moved = jax.jvp(outputs, (params,), (vector,))
    curved = hessian_vector_product(loss, out, moved, *targets)
    return jax.vjp(outputs, params)[1](curved)[0]


def exact_diagonal(product: Product, like: Tree) -> Tree:
    r"""The diagonal $e_i^\top A e_i$ of a linear map, an entry at a time.

    As many products as there are parameters, one after another: the memory of one
    product, and a time for small models only.

    Args:
        product: the linear map, from trees like `like` to such trees.
        like: gives structure, shapes and dtypes.

    Returns:
        A tree like `like`, at least float32.
    """
    apply, zeros, unravel = on_vectors(product, like)
    entry = lambda i: apply(zeros.at[i].set(1.0))[i]
    return unravel(jax.lax.map(entry, jnp.arange(zeros.size)))


def hutchinson_diagonal(
    product: Product, like: Tree, key: jax.Array, probes: int
) -> Tree:
    r"""An unbiased estimate of the diagonal of a linear map.

    $$ \frac1m \sum_{k=1}^m z_k \odot A z_k, \qquad z_k \in \{-1, 1\}^n $$

    For a symmetric $A$ entry i has variance $\sum_{j \ne i} A_{ij}^2 / m$: a diagonal
    matrix is found exactly by one probe.

    Args:
        product: the linear map, from trees like `like` to such trees.
        like: gives structure, shapes and dtypes.
        key: randomness of the probes.
        probes: m, one product each, one after another.

    Returns:
        A tree like `like`, at least float32.

    Raises:
        ValueError: `probes` is no positive integer.

    Source: Bekas, Kokiopoulou and Saad 2007, "An estimator for the diagonal of a
    matrix".
    """
    require_positive_int("probes", probes)

    def add(total: Tree, key: jax.Array) -> tuple[Tree, None]:
        z = optax.tree.random_like(key, like, jax.random.rademacher)
        return jax.tree.map(lambda t, a, b: t + a * b, total, z, product(z)), None

    zeros = jax.tree.map(jnp.zeros_like, widen(like))
    total, _ = jax.lax.scan(add, zeros, jax.random.split(key, probes))
    return jax.tree.map(lambda t: t / probes, total)


def hutchinson_trace(
    product: Product, like: Tree, key: jax.Array, probes: int
) -> jax.Array:
    r"""An unbiased estimate of the trace of a linear map, a scalar.

    $$ \frac1m \sum_{k=1}^m z_k^\top A z_k, \qquad z_k \in \{-1, 1\}^n $$

    This is the sum of `hutchinson_diagonal`, whose arguments and errors it has. For a
    symmetric $A$ its variance is $2 \sum_{i \ne j} A_{ij}^2 / m$.

    Source: Hutchinson 1989, "A stochastic estimator of the trace of the influence
    matrix for Laplacian smoothing splines".
    """
    diagonal = hutchinson_diagonal(product, like, key, probes)
    return jnp.asarray(optax.tree.sum(diagonal))


def hessian_diagonal(loss: Callable[..., jax.Array], params: Tree, *args: Any) -> Tree:
    """The diagonal of the Hessian, by `exact_diagonal`: for small models.

    Args:
        loss: `(params, *args) -> scalar`.
        params: where the Hessian is taken.
        *args: what else the loss takes.

    Returns:
        A tree like `params`, at least float32.
    """
    product = lambda v: hessian_vector_product(loss, params, v, *args)
    return exact_diagonal(product, params)


def estimate_hessian_diagonal(
    loss: Callable[..., jax.Array],
    params: Tree,
    key: jax.Array,
    probes: int,
    *args: Any,
) -> Tree:
    """The diagonal of the Hessian, estimated by `hutchinson_diagonal`.

    Args:
        loss: `(params, *args) -> scalar`.
        params: where the Hessian is taken.
        key: randomness of the probes.
        probes: how many Hessian-vector products to average over.
        *args: what else the loss takes.

    Returns:
        A tree like `params`, at least float32.

    Raises:
        ValueError: `probes` is no positive integer.
    """
    product = lambda v: hessian_vector_product(loss, params, v, *args)
    return hutchinson_diagonal(product, params, key, probes)


def ggn_diagonal(
    model: Callable[[Tree, Any], Tree],
    loss: Callable[..., jax.Array],
    params: Tree,
    inputs: Any,
    *targets: Any,
) -> Tree:
    """The diagonal of the Gauss-Newton matrix, by `exact_diagonal`: for small models.

    Args:
        model: `(params, inputs) -> outputs`.
        loss: `(outputs, *targets) -> scalar`.
        params: where the matrix is taken.
        inputs: of the model.
        *targets: what else the loss takes.

    Returns:
        A tree like `params`, at least float32.
    """
    product = lambda v: ggn_vector_product(model, loss, params, v, inputs, *targets)
    return exact_diagonal(product, params)


def estimate_ggn_diagonal(
    model: Callable[[Tree, Any], Tree],
    loss: Callable[..., jax.Array],
    params: Tree,
    key: jax.Array,
    probes: int,
    inputs: Any,
    *targets: Any,
) -> Tree:
    """The diagonal of the Gauss-Newton matrix, estimated by `hutchinson_diagonal`.

    An estimate may be negative although the diagonal is not.

    Args:
        model: `(params, inputs) -> outputs`.
        loss: `(outputs, *targets) -> scalar`.
        params: where the matrix is taken.
        key: randomness of the probes.
        probes: how many products to average over.
        inputs: of the model.
        *targets: what else the loss takes.

    Returns:
        A tree like `params`, at least float32.

    Raises:
        ValueError: `probes` is no positive integer.
    """
    product = lambda v: ggn_vector_product(model, loss, params, v, inputs, *targets)
    return hutchinson_diagonal(product, params, key, probes)
