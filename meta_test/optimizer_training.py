"""Training a learned optimizer as a task: the outer problem as an inner one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from l2o.learned.small_fc import SmallFC
from tasks.base import Batch, Params, Split, Task, TaskFamily, bounded, static
from tasks.checks import require_sizes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OptimizerTraining(TaskFamily):
    r"""Train the weights theta of a learned optimizer by backpropagation.

    An example is a whole training of another family's task: its specification, initial
    parameters and batches. The loss is the mean over examples and inner steps of the
    normalised inner loss,

    $$ \frac{1}{N T} \sum_{n=1}^{N} \sum_{t=1}^{T} L_n(w_{n,t}), \qquad
       w_{n,t+1} = w_{n,t} + U_\theta(\nabla L_n(w_{n,t})), $$

    and its gradient goes back through all inner steps. It probes long chains of
    products: gradients whose size differs by orders of magnitude between thetas.

    Attributes:
        inner: the family that the optimizer is trained on.
        optimizer: the architecture that is trained.
        steps: T, inner steps of an example.
        problems: N, examples per step.
    """

    inner: TaskFamily
    optimizer: SmallFC = static(
        SmallFC(
            hidden_layers=1,
            momentum_decays=(0.9, 0.99),
            factored_decays=(0.9, 0.99),
            step_mult=0.03,
        )
    )
    steps: int = static(8)
    problems: int = static(4)

    def __post_init__(self) -> None:
        require_sizes("optimizer_training.steps", [self.steps])
        require_sizes("optimizer_training.problems", [self.problems])

    def sample(self, key: jax.Array) -> jax.Array:
        """Nothing: an example draws its own inner task."""
        del key
        return jnp.zeros(())

    def nominal(self) -> jax.Array:
        return jnp.zeros(())

    def task(self, spec: jax.Array) -> Task:
        del spec

        def batch(key: jax.Array, split: Split) -> Batch:
            def one(key: jax.Array) -> Any:
                spec_key, init_key, key = jax.random.split(key, 3)
                inner_spec = self.inner.sample(spec_key)
                task = self.inner.task(inner_spec)
                keys = jax.random.split(key, self.steps + 1)
                batches = jax.vmap(lambda key: task.batch(key, split))(keys)
                return inner_spec, task.init(init_key), batches

            return jax.vmap(one)(jax.random.split(key, self.problems))

        def train(theta: Params, key: jax.Array, problem: Any) -> jax.Array:
            inner_spec, params, batches = problem
            task = self.inner.task(inner_spec)
            tx = self.optimizer.with_theta(theta, num_steps=self.steps)

            def losses(params: Params, batch: Batch, key: jax.Array) -> Any:
                loss, _ = task.loss(params, key, batch)
                return loss, task.normalise(loss)

            def step(carry: Any, inputs: Any) -> Any:
                params, state = carry
                (loss, normalised), grads = jax.value_and_grad(losses, has_aux=True)(
                    params, *inputs
                )
                updates, state = tx.update(grads, state, params, value=loss)
                return (optax.apply_updates(params, updates), state), normalised

            keys = jax.random.split(key, self.steps + 1)
            first, last = (
                jax.tree.map(lambda x, part=part: x[part], (batches, keys))
                for part in (slice(-1), -1)
            )
            (params, _), found = jax.lax.scan(step, (params, tx.init(params)), first)
            return jnp.mean(jnp.append(found[1:], losses(params, *last)[1]))

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            keys = jax.random.split(key, self.problems)
            found = jax.vmap(train, in_axes=(None, 0, 0))(params, keys, batch)
            return jnp.mean(found), {}

        return Task(
            init=self.optimizer.init_theta,
            batch=batch,
            loss=loss,
            normalise=lambda loss: bounded(loss, 1.0),
            examples=True,
        )
