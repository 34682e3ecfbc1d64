"""A learned optimizer in plain JAX and optax: `python examples/plain_jax.py`."""

import jax
import jax.numpy as jnp
import optax

import l2o
from tasks import load


def logits_fn(params: dict, x: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"][None])
    return hidden @ params["w2"] + params["b2"][None]


def loss_fn(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    logits = logits_fn(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def main(steps: int = 1_000) -> tuple[float, float]:
    data = load("digits").flat()
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),  # acts on the gradient
        l2o.optimizer("digits-mlp", num_steps=steps),
        optax.scale(0.5),  # acts on the step
        optax.add_decayed_weights(-1e-5),  # negative: nothing after it turns the sign
    )
    key1, key2 = jax.random.split(jax.random.key(0))
    params = {
        "w1": jax.random.normal(key1, (64, 32)) / 64**0.5,
        "b1": jnp.zeros(32),
        "w2": jax.random.normal(key2, (32, 10)) / 32**0.5,
        "b2": jnp.zeros(10),
    }

    @jax.jit
    def train(params: dict, keys: jax.Array) -> dict:
        def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
            params, opt_state = carry
            batch = data.batch(key, "train", 64)
            loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
            updates, opt_state = tx.update(grads, opt_state, params, value=loss)
            return (optax.apply_updates(params, updates), opt_state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
        return params

    params = train(params, jax.random.split(jax.random.key(1), steps))
    loss = loss_fn(params, data.inputs["train"], data.labels["train"])
    logits = logits_fn(params, data.inputs["test"])
    accuracy = (logits.argmax(-1) == data.labels["test"]).mean()
    print(f"train loss {loss:.2g}, test accuracy {accuracy:.3f}")
    return float(loss), float(accuracy)


if __name__ == "__main__":
    main()
