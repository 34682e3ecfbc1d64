"""A learned optimizer in an equinox loop: `python examples/equinox_loop.py`."""

import equinox as eqx
import jax
import optax

import l2o
from tasks import load


def loss_fn(model: eqx.nn.MLP, x: jax.Array, y: jax.Array) -> jax.Array:
    logits = jax.vmap(model)(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def main(steps: int = 1_000) -> tuple[float, float]:
    data = load("digits").flat()
    model = eqx.nn.MLP(64, 10, width_size=32, depth=1, key=jax.random.key(0))
    tx = l2o.optimizer("celo-public", num_steps=steps)
    # The optimizer sees what is differentiated; the rest, as activations, is None.
    opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(
        model: eqx.nn.MLP, opt_state: optax.OptState, x: jax.Array, y: jax.Array
    ) -> tuple[eqx.nn.MLP, optax.OptState]:
        loss, grads = eqx.filter_value_and_grad(loss_fn)(model, x, y)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = tx.update(grads, opt_state, params, value=loss)
        return eqx.apply_updates(model, updates), opt_state

    for key in jax.random.split(jax.random.key(1), steps):
        model, opt_state = step(model, opt_state, *data.batch(key, "train", 64))
    loss = loss_fn(model, data.inputs["train"], data.labels["train"])
    logits = jax.vmap(model)(data.inputs["test"])
    accuracy = (logits.argmax(-1) == data.labels["test"]).mean()
    print(f"train loss {loss:.2g}, test accuracy {accuracy:.3f}")
    return float(loss), float(accuracy)


if __name__ == "__main__":
    main()
