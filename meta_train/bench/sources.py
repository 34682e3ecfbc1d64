"""Cost of gradient sources beside backpropagation, on networks of growing depth."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from l2o.gradients import angle, parse
from l2o.learned.facts import table
from meta_test.families import build_family
from meta_test.gradient_source import GradientSource
from meta_train.bench.timing import median_seconds
from tasks.base import Spec, TaskFamily


REFERENCE = "backprop"

SOURCES = (
    REFERENCE,
    "backprop:microbatches=4",
    "forward_gradient",
    "forward_gradient:tangents=8",
    "activity_perturbation",
    "feedback_alignment",
    "feedback_alignment:rule=layerwise",
    "feedback_alignment:rule=sign",
    "evolution_strategies",
)
"""As `l2o.gradients.parse` reads them."""

NETWORKS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "mlp": lambda depth: {
        "family": "image_mlp",
        "data": "digits",
        "hidden": (64,) * depth,
        "batch_size": 256,
    },
    "conv": lambda depth: {
        "family": "image_conv",
        "data": "digits",
        "channels": (16,) * depth,
        "stride": 1,
        "batch_size": 32,
    },
    "transformer": lambda depth: {
        "family": "lm_transformer",
        "data": "kjv",
        "width": 32,
        "heads": 4,
        "depth": depth,
        "length": 32,
        "batch_size": 8,
    },
}
"""Tables of families by depth: layers of 64, of 16 channels, blocks of width 32."""

DEPTHS = (1, 4, 16)


def sources(
    say: Callable[[str], None],
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    depths: Sequence[int] = DEPTHS,
    names: Sequence[str] = SOURCES,
) -> dict[str, Any]:
    """Time and memory of a loss and its gradient, from every source.

    All sources of one network take turns. They are given the same parameters, the same
    batch, and fresh keys.

    Args:
        say: called with a line before each network.
        networks: keys of `NETWORKS`.
        depths: of each.
        names: sources; backpropagation is measured in any case.

    Returns:
        `rows`, each with `network`, `depth`, `parameters`, `source`, and

        * `seconds` (median over repetitions) and `times_backprop`;
        * `memory_bytes`, what the compiled program takes beside its arguments, by XLA's
          analysis: results, which are as large as the parameters, and temporaries; and
          `memory_times_backprop`;
        * `degrees_from_backprop`, the angle between the two gradients at the initial
          parameters, with one key;

        or `unsupported`, the reason; and `devices`.
    """
    rows: list[dict[str, Any]] = []
    for network in networks:
        for depth in depths:
            say(f"{network} of depth {depth}")
            family = build_family(NETWORKS[network](depth))
            about = {"network": network, "depth": depth}
            rows += [about | row for row in _rows(family, names)]
    return {
        "rows": rows,
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }


def _rows(family: TaskFamily, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of one network, the reference first."""
    made: dict[str, _Gradient] = {}
    refused: dict[str, str] = {}
    for name in dict.fromkeys([REFERENCE, *names]):
        try:
            made[str(parse(name))] = _Gradient(family, name)
        except ValueError as error:
            refused[str(parse(name))] = str(error)
    reference = made[REFERENCE]
    seconds = median_seconds(list(made.values()), warm_up=2, repeats=11)
    rows = []
    for (name, gradient), duration in zip(made.items(), seconds, strict=True):
        rows.append(
            {
                "parameters": gradient.parameters,
                "source": name,
                "seconds": duration,
                "times_backprop": duration / seconds[0],
                "memory_bytes": gradient.memory,
                "memory_times_backprop": gradient.memory / reference.memory,
                "degrees_from_backprop": float(
                    angle(gradient.result[1], reference.result[1])
                ),
            }
        )
    return rows + [
        {"parameters": reference.parameters, "source": name, "unsupported": reason}
        for name, reason in refused.items()
    ]


class _Gradient:
    """A compiled loss and gradient of one batch, which each call makes once more."""

    def __init__(self, family: TaskFamily, source: str) -> None:
        """Compiles.

        Raises:
            ValueError: the source does not support the family.
        """
        fed = GradientSource(family, source)
        spec = fed.nominal()
        params_key, batch_key, key = jax.random.split(jax.random.key(0), 3)
        task = fed.task(spec)
        params = task.init(params_key)
        batch = task.batch(batch_key, "train")

        def gradient(spec: Spec, params: Any, batch: Any, key: jax.Array) -> Any:
            return fed.task(spec).gradients.step((), params, key, batch)[:2]

        self._given = spec, params, batch, key
        self._compiled = jax.jit(gradient).lower(*self._given).compile()
        analysis = self._compiled.memory_analysis()
        if analysis is None:
            raise RuntimeError(
                "XLA must tell how much memory a program takes, "
                f"it does not on {jax.default_backend()}"
            )
        self.memory: int = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        self.parameters: int = sum(x.size for x in jax.tree.leaves(params))
        self.result: Any = None

    def __call__(self) -> None:
        self.result = jax.block_until_ready(self._compiled(*self._given))


def text(result: Mapping[str, Any]) -> str:
    """The result of `sources` for people."""
    lines = []
    for network in dict.fromkeys(
        (row["network"], row["depth"], row["parameters"]) for row in result["rows"]
    ):
        name, depth, parameters = network
        rows = [row for row in result["rows"] if (name, depth) == _place(row)]
        lines += [
            f"{name} of depth {depth}, {parameters:,} parameters:",
            table({row["source"]: _shown(row) for row in rows if "seconds" in row}),
        ]
        reasons: dict[str, list[str]] = {}
        for row in rows:
            if "unsupported" in row:
                reasons.setdefault(row["unsupported"], []).append(row["source"])
        lines += [f"not {', '.join(who)}: {why}" for why, who in reasons.items()]
        lines.append("")
    return "\n".join([*lines, f"devices: {result['devices']}"])


def _place(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["network"], row["depth"]


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "ms": f"{1e3 * row['seconds']:.2f}",
        "times backprop": f"{row['times_backprop']:.2f}",
        "kB": f"{row['memory_bytes'] / 1e3:,.0f}",
        "of backprop's": f"{row['memory_times_backprop']:.2f}",
        "degrees": f"{row['degrees_from_backprop']:.0f}",
    }
