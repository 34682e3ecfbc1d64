"""What an architecture reads and costs, measured and not recited."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2o.learned.base import LearnedOptimizer


@dataclasses.dataclass(frozen=True)
class Facts:
    """A row of the table of architectures.

    The state of an optimizer is counted in numbers of 32 bits.

    Attributes:
        inputs: what the network reads.
        theta: how many meta-parameters there are.
        per_parameter: numbers of state for each parameter in a matrix.
        per_vector_parameter: for each in a vector or scalar, instead.
        per_row_and_column: for each row and each column of a matrix, besides.
        per_tensor: for each tensor, besides.
        once: for the whole tree, besides.
        needs_value: whether `update` must be given `value=loss`.
        needs_num_steps: whether the length of the training must be given.
        source: where the architecture is published.
    """

    inputs: str
    theta: int
    per_parameter: int
    per_vector_parameter: int
    per_row_and_column: int
    per_tensor: int
    once: int
    needs_value: bool
    needs_num_steps: bool
    source: str


# Trees of tensors that tell the five sizes of state apart, some of one shape; more than
# there are unknowns, so that a state which grows in another way is noticed.
_PROBES: tuple[tuple[tuple[int, ...], ...], ...] = (
    (),
    ((2, 3),),
    ((4, 7),),
    ((5, 5), (2, 3)),
    ((5,),),
    ((3,), ()),
    ((2, 3), (2, 3), (5,), (5,)),
)


def facts(lopt: LearnedOptimizer) -> Facts:
    """Measures an architecture by the shapes of its theta and of its states.

    Raises:
        ValueError: the size of its state is not a sum of terms in proportion to
            parameters, rows and columns, and tensors.
    """
    key = jax.random.key(0)
    sizes = [_state_size(lopt, key, shapes) for shapes in _PROBES]
    terms = np.array([_terms(shapes) for shapes in _PROBES])
    solution = np.rint(np.linalg.lstsq(terms, np.array(sizes))[0]).astype(int)
    if (terms @ solution).tolist() != sizes:
        raise ValueError(
            f"the state of {type(lopt).__name__} must grow in proportion to parameters"
            f", rows and columns, and tensors, got sizes {sizes} for {_PROBES}"
        )
    matrix, vector, row_and_column, tensor, once = solution.tolist()
    return Facts(
        inputs=lopt.inputs,
        theta=_size(jax.eval_shape(lopt.init_theta, key)),
        per_parameter=matrix,
        per_vector_parameter=vector,
        per_row_and_column=row_and_column,
        per_tensor=tensor,
        once=once,
        needs_value=lopt.needs_value,
        needs_num_steps=lopt.needs_num_steps,
        source=lopt.source,
    )


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns `{name: {column: value}}`, all with the same columns, in Markdown."""
    columns = list(next(iter(rows.values()), {}))
    cells = [["name", *(column.replace("_", " ") for column in columns)]]
    cells += [[name, *map(_cell, row.values())] for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(row, widths) for row in cells]
    lines.insert(1, _line(["-" * width for width in widths], widths))
    return "\n".join(lines)


def _state_size(
    lopt: LearnedOptimizer, key: jax.Array, shapes: Sequence[tuple[int, ...]]
) -> int:
    """How many numbers the state of a training of tensors of these shapes holds."""
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def init(key: jax.Array, params: Any) -> Any:
        return lopt.with_theta(lopt.init_theta(key), num_steps=1000).init(params)

    return _size(jax.eval_shape(init, key, params))


def _terms(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """What each of the five sizes is multiplied by for tensors of these shapes."""
    matrices = [shape for shape in shapes if len(shape) == 2]
    vectors = [shape for shape in shapes if len(shape) < 2]
    return [
        sum(map(math.prod, matrices)),
        sum(map(math.prod, vectors)),
        sum(map(sum, matrices)),
        len(shapes),
        1,
    ]


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [f"{c:{width}}" for c, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"
