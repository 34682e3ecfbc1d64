"""Message-passing networks that find the communities of random graphs."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.base import (
    Batch,
    Params,
    Split,
    Task,
    TaskFamily,
    bounded,
    number_of,
    static,
)
from tasks.checks import require_number, require_range, require_sizes
from tasks.classification import cross_entropy
from tasks.network import NetworkChoices, NetworkSpec
from tasks.sampling import log_uniform, middle


class _MessagePassing(nn.Module):
    hidden: tuple[int, ...]
    outputs: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, edges: jax.Array, x: jax.Array) -> jax.Array:
        """`[..., nodes, outputs]` from `[..., nodes, nodes]` and `[..., nodes, n]`."""
        neighbours = jnp.sum(edges, axis=-1, keepdims=True)
        share = edges / jnp.maximum(neighbours, 1.0)
        for size in self.hidden:
            own = nn.Dense(size)(x)
            x = self.activation(own + nn.Dense(size, use_bias=False)(share @ x))
        return nn.Dense(self.outputs)(x)


class GraphNetworkSpec(NamedTuple):
    """One kind of graphs, and the network that reads them."""

    network: NetworkSpec
    within: jax.Array  # shape=(), float32: chance of an edge inside a block
    between: jax.Array  # shape=(), float32: chance of an edge between two blocks
    revealed: jax.Array  # shape=(), float32: chance that a node's block is told


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GraphNetwork(TaskFamily):
    r"""Classify the nodes of graphs from the stochastic block model.

    Every node is in one of `blocks` at random; two nodes are joined with a chance that
    depends on whether they share a block. Some nodes tell their block, as a one-hot
    vector; the others' input is zero. The network makes a round of messages per hidden
    layer,

    $$ h_v \leftarrow \sigma\Big(W h_v + V \, \mathrm{mean}_{w \sim v} h_w + b\Big), $$

    then a linear layer, and the loss is the cross-entropy of the nodes that were not
    told, averaged over each graph and then over graphs. It does not fall to zero: how
    far, depends on how alike the blocks are. All graphs are fresh, those of one key
    different from split to split.

    It is the family whose inputs are relations: a weight matrix is shared by all nodes,
    and its gradient is a sum over walks in a random graph.

    Sources: Holland, Laskey and Leinhardt (1983), "Stochastic blockmodels"; Hamilton,
    Ying and Leskovec (2017), "Inductive representation learning on large graphs", for
    the rounds.

    Attributes:
        nodes: of a graph.
        blocks: number of communities, two or more.
        hidden: widths of the hidden layers; as many rounds of messages.
        batch_size: graphs per step.
        within: range of the chance of an edge inside a block, log-uniform.
        between: range of the chance of an edge between blocks, log-uniform.
        revealed: range of the share of nodes whose block is told, log-uniform.
        network: what is drawn for each network.
    """

    nodes: int = static(24)
    blocks: int = static(3)
    hidden: tuple[int, ...] = static((32, 32))
    batch_size: int = static(4)
    within: tuple[float, float] = static((0.4, 0.8))
    between: tuple[float, float] = static((0.02, 0.1))
    revealed: tuple[float, float] = static((0.2, 0.5))
    network: NetworkChoices = static(NetworkChoices())

    def __post_init__(self) -> None:
        for name in ("nodes", "blocks", "batch_size"):
            require_sizes(f"graph_network.{name}", [getattr(self, name)])
        require_number("graph_network.blocks", self.blocks, 2)
        require_sizes("graph_network.hidden", self.hidden)
        for name in ("within", "between", "revealed"):
            chances = getattr(self, name)
            require_range(f"graph_network.{name}", chances)
            require_number(f"graph_network.{name}", chances[1], 0.0, 1.0)

    def sample(self, key: jax.Array) -> GraphNetworkSpec:
        network_key, within_key, between_key, revealed_key = jax.random.split(key, 4)
        return GraphNetworkSpec(
            network=self.network.sample(network_key),
            within=log_uniform(within_key, self.within),
            between=log_uniform(between_key, self.between),
            revealed=log_uniform(revealed_key, self.revealed),
        )

    def nominal(self) -> GraphNetworkSpec:
        """The middle of the ranges."""
        return GraphNetworkSpec(
            network=self.network.nominal(),
            within=middle(self.within),
            between=middle(self.between),
            revealed=middle(self.revealed),
        )

    def task(self, spec: GraphNetworkSpec) -> Task:
        module = _MessagePassing(
            self.hidden, self.blocks, self.network.activate(spec.network)
        )
        graphs = (self.batch_size, self.nodes)

        def init(key: jax.Array) -> Params:
            edges = jnp.zeros((self.nodes, self.nodes))
            inputs = jnp.zeros((self.nodes, self.blocks))
            return self.network.init(module, spec.network, key, edges, inputs)

        def batch(key: jax.Array, split: Split) -> Batch:
            key = jax.random.fold_in(key, number_of(split))
            edge_key, block_key, told_key = jax.random.split(key, 3)
            blocks = jax.random.randint(block_key, graphs, 0, self.blocks)
            alike = blocks[:, :, None] == blocks[:, None, :]
            chance = jnp.where(alike, spec.within, spec.between)
            joined = jax.random.uniform(edge_key, chance.shape) < chance
            above = jnp.triu(joined, 1)
            edges = (above | jnp.swapaxes(above, 1, 2)).astype(jnp.float32)
            told = jax.random.bernoulli(told_key, spec.revealed, graphs)
            return edges, blocks, told

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            del key  # The network is deterministic.
            edges, blocks, told = batch
            targets = jax.nn.one_hot(blocks, self.blocks)
            inputs = jnp.where(told[:, :, None], targets, 0.0)
            logits: Any = module.apply({"params": params}, edges, inputs)
            asked = 1.0 - told.astype(jnp.float32)
            count = jnp.maximum(jnp.sum(asked, axis=-1), 1.0)
            right = jnp.argmax(logits, axis=-1) == blocks

            def mean(of_nodes: jax.Array) -> jax.Array:
                return jnp.mean(jnp.sum(asked * of_nodes, axis=-1) / count)

            return mean(cross_entropy(logits, targets)), {"accuracy": mean(right)}

        def normalise(loss: jax.Array) -> jax.Array:
            return bounded(loss, math.log(self.blocks))

        return Task(
            init=init, batch=batch, loss=loss, normalise=normalise, examples=True
        )
