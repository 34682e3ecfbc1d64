"""Recurrent networks that predict the next byte of a text."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.base import Task, TaskFamily, static
from tasks.checks import require_choices, require_sizes
from tasks.data.arrays import Text
from tasks.language import (
    LanguageModel,
    LanguageSpec,
    language_task,
    sample_language,
)
from tasks.network import NetworkChoices


Cell = Literal["gru", "lstm"]

Activation = Callable[[jax.Array], jax.Array]


class _Memory(NamedTuple):
    """What a cell carries from byte to byte, each `[passages, width]`."""

    output: jax.Array
    cell: jax.Array


def _gru(
    memory: _Memory, inputs: jax.Array, recurrent: jax.Array, activation: Activation
) -> _Memory:
    update_x, reset_x, new_x = jnp.split(inputs, 3, axis=-1)
    update_h, reset_h, new_h = jnp.split(memory.output @ recurrent, 3, axis=-1)
    keep = nn.sigmoid(update_x + update_h)
    new = activation(new_x + nn.sigmoid(reset_x + reset_h) * new_h)
    output = keep * memory.output + (1.0 - keep) * new
    return _Memory(output, memory.cell)


def _lstm(
    memory: _Memory, inputs: jax.Array, recurrent: jax.Array, activation: Activation
) -> _Memory:
    gates = inputs + memory.output @ recurrent
    write, forget, new, read = jnp.split(gates, 4, axis=-1)
    # Remembers at first: Jozefowicz et al. (2015).
    kept = nn.sigmoid(forget + 1.0) * memory.cell
    cell = kept + nn.sigmoid(write) * activation(new)
    return _Memory(nn.sigmoid(read) * activation(cell), cell)


class _Kind(NamedTuple):
    step: Callable[[_Memory, jax.Array, jax.Array, Activation], _Memory]
    gates: int


_CELLS: dict[str, _Kind] = {"gru": _Kind(_gru, 3), "lstm": _Kind(_lstm, 4)}


class _Recurrent(nn.Module):
    cell: Cell
    width: int
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        step, gates = _CELLS[self.cell]
        size = gates * self.width
        # What does not wait for the byte before is computed for all bytes at once.
        inputs = nn.Dense(size, name="input")(x)
        recurrent = self.param(
            "recurrent", nn.initializers.lecun_normal(), (self.width, size)
        )

        def body(memory: _Memory, inputs: jax.Array) -> tuple[_Memory, jax.Array]:
            memory = step(memory, inputs, recurrent, self.activation)
            return memory, memory.output

        nothing = jnp.zeros((len(x), self.width), inputs.dtype)
        _, outputs = jax.lax.scan(
            body, _Memory(nothing, nothing), inputs.swapaxes(0, 1)
        )
        return outputs.swapaxes(0, 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LMRNN(TaskFamily):
    r"""Recurrent language models of bytes: backpropagation through time.

    With gates $\sigma(\cdot)$ of $W x_t + b + U h_{t-1}$, activation $\phi$ and
    elementwise products, a GRU (Cho et al., 2014; the reset gate after the product)
    computes

    $$h_t = z_t h_{t-1} + (1 - z_t)\, \phi(W_n x_t + b_n + r_t\, U_n h_{t-1})$$

    and an LSTM (Hochreiter and Schmidhuber, 1997; forget gates of Gers et al., 2000)

    $$c_t = f_t c_{t-1} + i_t\, \phi(W_n x_t + b_n + U_n h_{t-1}), \qquad
    h_t = o_t\, \phi(c_t).$$

    The matrices of all gates are one, `[width, 3 width]` or `[width, 4 width]`.
    Passages are independent; the memory starts at zero.

    It probes what no feed-forward network does: one matrix used at every step in time,
    whose gradient is a sum of terms that vanish or explode with their distance.

    Attributes:
        data: the texts.
        cell: `gru` or `lstm`.
        width: of the embedding, of the memory and of the output.
        length: bytes predicted in a passage.
        batch_size: passages per step.
        network: what is drawn for each network; the activation is that of the new
            memory, gates are sigmoids.
    """

    data: Text
    cell: Cell = static("gru")
    width: int = static(32)
    length: int = static(16)
    batch_size: int = static(8)
    network: NetworkChoices = static(NetworkChoices(activation=("tanh",)))

    def __post_init__(self) -> None:
        require_choices("lm_rnn.cell", (self.cell,), get_args(Cell))
        for name in ("width", "length", "batch_size"):
            require_sizes(f"lm_rnn.{name}", [getattr(self, name)])

    def sample(self, key: jax.Array) -> LanguageSpec:
        return sample_language(key, self.network, self.data)

    def nominal(self) -> LanguageSpec:
        return LanguageSpec(self.network.nominal(), jnp.int32(0))

    def model(self, spec: LanguageSpec) -> LanguageModel:
        """The network of one task."""
        activation = self.network.activate(spec.network)
        return LanguageModel(_Recurrent(self.cell, self.width, activation), self.width)

    def task(self, spec: LanguageSpec) -> Task:
        return language_task(
            self.model(spec),
            spec,
            data=self.data,
            length=self.length,
            batch_size=self.batch_size,
            network=self.network,
        )
