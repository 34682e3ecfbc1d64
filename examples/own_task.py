"""Meta-train on your own model and arrays: `python examples/own_task.py`."""

import flax.linen as nn
import jax
import optax
from sklearn.datasets import load_digits

import tasks
from meta_train.build import build_trainer
from meta_train.config import EstimatorConfig, OuterConfig, TrainConfig


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(10)(nn.tanh(nn.Dense(24)(x)))


def main(steps: int = 1_000, outer_steps: int = 100) -> tuple[float, float]:
    images, labels = load_digits(return_X_y=True)
    family = tasks.from_flax(
        Net(), (images / 16, labels), loss="cross_entropy", init_scale=(0.5, 2.0)
    )
    config = TrainConfig(
        name="own-task",
        optimizer={"arch": "learnable_adam"},
        task={},  # The family is given beside it.
        schedule={"kind": "log_uniform", "shortest": 100, "longest": 1_000},
        meta_loss={"scale": "log"},
        estimator=EstimatorConfig(pairs=8, window=50, sigma=0.1),
        outer=OuterConfig(steps=outer_steps, learning_rate=0.05),
    )
    trainer = build_trainer(config, family)
    state, outer = jax.jit(trainer.init)(jax.random.key(0)), jax.jit(trainer.dispatch)
    for _ in range(outer_steps // config.outer.steps_per_dispatch):
        state, metrics = outer(state)
        print(f"meta-loss {metrics.meta_loss.mean():.3f}")

    tx = trainer.lopt.with_theta(trainer.result(state), num_steps=steps)
    task = family.task(family.nominal())
    params = task.init(jax.random.key(1))
    grad = jax.value_and_grad(task.loss, has_aux=True)

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        (loss, _), grads = grad(carry[0], key, task.batch(key, "train"))
        updates, opt_state = tx.update(grads, carry[1], carry[0], value=loss)
        return (optax.apply_updates(carry[0], updates), opt_state), None

    keys = jax.random.split(jax.random.key(2), steps)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    loss, _ = task.loss(params, keys[0], family.arrays["train"])
    _, aux = task.loss(params, keys[0], family.arrays["test"])
    print(f"train loss {loss:.2g}, test accuracy {aux['accuracy']:.3f}")
    return float(loss), float(aux["accuracy"])


if __name__ == "__main__":
    main()
