"""Celo's published weights beside Adam: `python examples/celo_public.py`."""

from typing import Any

import jax
import optax
from flax import linen as nn

import l2o
from tasks import load


MODEL = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(10)])


def loss_fn(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    logits: Any = MODEL.apply(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(tx: optax.GradientTransformationExtraArgs, steps: int) -> tuple[float, float]:
    """Returns the loss on the training data and the accuracy on the test data."""
    data = load("digits").flat()
    params = MODEL.init(jax.random.key(0), data.inputs["train"])
    opt_state = tx.init(params)

    @jax.jit
    def step(params: Any, opt_state: optax.OptState, key: jax.Array) -> tuple:
        batch = data.batch(key, "train", 64)
        loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
        updates, opt_state = tx.update(grads, opt_state, params, value=loss)
        return optax.apply_updates(params, updates), opt_state

    for key in jax.random.split(jax.random.key(1), steps):
        params, opt_state = step(params, opt_state, key)
    loss = loss_fn(params, data.inputs["train"], data.labels["train"])
    logits: Any = MODEL.apply(params, data.inputs["test"])
    return float(loss), float((logits.argmax(-1) == data.labels["test"]).mean())


def main(
    steps: int = 1_000, learning_rate: float = 6e-2
) -> dict[str, tuple[float, float]]:
    lopt, theta = l2o.load("celo-public")
    adam = optax.with_extra_args_support(optax.adam(learning_rate))
    results = {
        "Celo": train(lopt.with_theta(theta, num_steps=steps), steps),
        f"Adam, learning rate {learning_rate}": train(adam, steps),
    }
    for name, (loss, accuracy) in results.items():
        print(f"{name}: train loss {loss:.2g}, test accuracy {accuracy:.3f}")
    return results


if __name__ == "__main__":
    main()
