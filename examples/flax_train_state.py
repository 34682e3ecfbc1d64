"""Learned optimizers in TrainState: `python examples/flax_train_state.py`."""

import jax
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

import l2o
from tasks import load


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(10)(nn.relu(nn.Dense(32)(x)))


def loss_fn(
    params: optax.Params, state: TrainState, x: jax.Array, y: jax.Array
) -> jax.Array:
    logits = state.apply_fn({"params": params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def plain_step(state: TrainState, x: jax.Array, y: jax.Array) -> TrainState:
    return state.apply_gradients(grads=jax.grad(loss_fn)(state.params, state, x, y))


@jax.jit
def value_step(state: TrainState, x: jax.Array, y: jax.Array) -> TrainState:
    # apply_gradients would not pass the loss on to an optimizer that reads it.
    loss, grads = jax.value_and_grad(loss_fn)(state.params, state, x, y)
    tx = optax.with_extra_args_support(state.tx)
    updates, opt_state = tx.update(grads, state.opt_state, state.params, value=loss)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state)


def main(steps: int = 1_000) -> dict[str, tuple[float, float]]:
    data, model, results = load("digits").flat(), MLP(), {}
    params = model.init(jax.random.key(0), data.inputs["train"])["params"]
    for name, step in (("digits-mlp", plain_step), ("celo-public", value_step)):
        tx = l2o.optimizer(name, num_steps=steps)
        state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
        for key in jax.random.split(jax.random.key(1), steps):
            state = step(state, *data.batch(key, "train", 64))
        loss = loss_fn(state.params, state, data.inputs["train"], data.labels["train"])
        logits = state.apply_fn({"params": state.params}, data.inputs["test"])
        accuracy = (logits.argmax(-1) == data.labels["test"]).mean()
        print(f"{name}: train loss {loss:.2g}, test accuracy {accuracy:.3f}")
        results[name] = float(loss), float(accuracy)
    return results


if __name__ == "__main__":
    main()
