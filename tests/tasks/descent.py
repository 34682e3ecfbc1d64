"""Gradient descent, with which tests ask whether a classifier learns at all."""

import jax


def held_out_accuracy(family, *, rate: float, steps: int) -> float:
    """Of the nominal task on its whole test split, after descent with one rate."""
    return float(_train(family, rate, jax.random.split(jax.random.key(1), steps)))


@jax.jit
def _train(family, rate, keys):
    task = family.task(family.nominal())

    def step(params, key):
        batch = task.batch(key, "train")
        grads, _ = jax.grad(task.loss, has_aux=True)(params, key, batch)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), None

    params, _ = jax.lax.scan(step, task.init(jax.random.key(0)), keys)
    data = family.data
    examples, _ = data.take("test", jax.numpy.arange(len(data.labels["test"])))
    held_out = (examples, data.labels["test"])
    return task.loss(params, jax.random.key(2), held_out)[1]["accuracy"]
