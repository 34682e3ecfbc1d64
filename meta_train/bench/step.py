"""Cost of one optimizer step, beside AdamW in the same process."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive_int
from l2o.learned import LearnedOptimizer, VeLO
from l2o.learned.celo2 import NEWTON_SCHULZ_STEPS
from meta_test.baselines import BASELINES
from meta_test.optimizer_step import CompiledStep
from meta_test.optimizers import baseline
from meta_train.bench import optimizers
from meta_train.bench.optimizers import named
from meta_train.bench.timing import median_seconds


OPTIMIZERS: dict[str, LearnedOptimizer] = {
    **optimizers.OPTIMIZERS,
    "velo": VeLO(lstm_size=512, mixtures=256),
}
"""At the sizes that were published, where one was."""


def step(optimizer: str, width: int, layers: int) -> dict[str, Any]:
    """Cost of one update of `layers` dense `width x width` matrices and their biases.

    The step is that of `meta_test.optimizer_step.CompiledStep`. AdamW takes turns with
    it. A baseline has the middle of its grid as its learning rate and the schedule of
    its row.

    Of the quadratic that stands there for a loss, a value is a pass over three arrays,
    a gradient a sum, and a product of its Hessian, the identity, with a vector is free:
    AdaHessian pays for its random probes alone, and the line search of L-BFGS accepts
    its first step after one value and gradient. What a training pays for its own loss
    comes on top. Sophia looks at the Hessian in one step of ten, which a median leaves
    out.

    Args:
        optimizer: a name of `OPTIMIZERS` or a baseline of `meta_test.optimizers`,
            hyphens and underscores alike.
        width: of a layer.
        layers: their number.

    Returns:
        `ns_per_parameter` (median over repetitions), `adamw_ns_per_parameter` and their
        quotient `times_adamw`; `temporary_floats_per_parameter`, from XLA's analysis of
        the compiled step; `state_floats_per_parameter`; `compile_seconds`, of tracing
        and compiling. For celo2 also `base_ns_per_parameter`, of celo2-base, and
        `products_ns_per_parameter`, of the matrix products of Newton-Schulz alone, both
        in turns with it, and `times_products`, what it takes above its base in units of
        these products.
    """
    # Of one name, the learned optimizer.
    known = {name: functools.partial(_baseline, name) for name in BASELINES} | {
        name: functools.partial(_bound, lopt) for name, lopt in OPTIMIZERS.items()
    }
    optimizer, make = named(optimizer, known)
    require_positive_int("width", width)
    require_positive_int("layers", layers)
    orthogonalize = optimizer == "celo2"
    own = CompiledStep(make(), width, layers)
    adamw = CompiledStep(
        optax.with_extra_args_support(optax.adamw(1e-3)), width, layers
    )
    calls: list[Callable[[], None]] = [own, adamw]
    if orthogonalize:
        base = CompiledStep(_bound(OPTIMIZERS["celo2-base"]), width, layers)
        calls += [base, _newton_schulz_products(width, layers)]
    # The first calls are slower: memory is new to the process.
    slow = optimizer in ("celo2", "muon") or own.state_floats > 8 * own.parameters
    seconds = median_seconds(
        calls, warm_up=2 if slow else 10, repeats=5 if slow else 31
    )
    ns, adamw_ns, *others = [1e9 * s / own.parameters for s in seconds]
    result = {
        "optimizer": optimizer,
        "width": width,
        "layers": layers,
        "parameters": own.parameters,
        "ns_per_parameter": ns,
        "adamw_ns_per_parameter": adamw_ns,
        "times_adamw": ns / adamw_ns,
        "temporary_floats_per_parameter": own.temporary_floats / own.parameters,
        "state_floats_per_parameter": own.state_floats / own.parameters,
        "compile_seconds": own.compile_seconds,
    }
    if orthogonalize:
        base_ns, products_ns = others
        result |= {
            "base_ns_per_parameter": base_ns,
            "products_ns_per_parameter": products_ns,
            "times_products": (ns - base_ns) / products_ns,
        }
    return result | {
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    }


def _bound(lopt: LearnedOptimizer) -> optax.GradientTransformationExtraArgs:
    return lopt.with_theta(lopt.init_theta(jax.random.key(0)), num_steps=10_000)


def _baseline(name: str) -> optax.GradientTransformationExtraArgs:
    contender = baseline(name)
    middle = contender.candidates[len(contender.labels) // 2]
    return optax.with_extra_args_support(contender.make(middle, jnp.int32(10_000)))


def _newton_schulz_products(width: int, layers: int) -> Callable[[], None]:
    """The products of matrices of Newton-Schulz iterations, and nothing else."""
    # Orthogonal, so that all products are, and their numbers neither grow nor vanish.
    matrix = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (width, width)))[0]
    matrices = [matrix + 0.0 for _ in range(layers)]

    def products(_: int, x: jax.Array) -> jax.Array:
        gram = x @ x.T
        return (gram @ gram) @ x

    run = jax.jit(
        lambda xs: [jax.lax.fori_loop(0, NEWTON_SCHULZ_STEPS, products, x) for x in xs]
    )
    return lambda: jax.block_until_ready(run(matrices)) and None
