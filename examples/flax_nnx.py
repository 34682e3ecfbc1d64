"""A learned optimizer in flax's nnx.Optimizer: `python examples/flax_nnx.py`."""

import jax
import optax
from flax import nnx

import l2o
from tasks import load


class MLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(64, 32, rngs=rngs)
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.hidden(x)))


def loss_fn(model: MLP, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit
def step(model: MLP, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> None:
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    # Keyword arguments go on to the update of the optax optimizer.
    optimizer.update(model, grads, value=loss)


def main(steps: int = 1_000) -> tuple[float, float]:
    data = load("digits").flat()
    model = MLP(nnx.Rngs(0))
    tx = l2o.optimizer("celo-public", num_steps=steps)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for key in jax.random.split(jax.random.key(1), steps):
        step(model, optimizer, *data.batch(key, "train", 64))
    loss = loss_fn(model, data.inputs["train"], data.labels["train"])
    accuracy = (model(data.inputs["test"]).argmax(-1) == data.labels["test"]).mean()
    print(f"train loss {loss:.2g}, test accuracy {accuracy:.3f}")
    return float(loss), float(accuracy)


if __name__ == "__main__":
    main()
