"""What all devices compute alike must be the same: an alarm where it is not."""

import hashlib

import jax
import numpy as np

from l2o.processes import Peers


class DivergenceError(ArithmeticError):
    """Devices that compute the same do not have the same theta."""


def require_same(theta: jax.Array, step: int, peers: Peers, seconds: float) -> None:
    """Raises DivergenceError unless theta is bitwise the same on all devices.

    Args:
        theta: which every device has.
        step: outer steps made.
        peers: the processes that these devices belong to.
        seconds: to wait for them.
    """
    own = [
        hashlib.sha256(np.asarray(shard.data).tobytes()).hexdigest()
        for shard in theta.addressable_shards
    ]
    found = peers.gather("theta", own, seconds)
    if len({digest for devices in found for digest in devices}) > 1:
        shown = "; ".join(", ".join(d[:8] for d in devices) for devices in found)
        raise DivergenceError(
            f"theta must be the same on all devices, at outer step {step} its sha256 "
            f"differs, by processes: {shown}"
        )
