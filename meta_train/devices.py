"""Devices of a run on a CPU: one virtual device a core."""

import contextlib
import os
import sys

import jax


def use_all_cores() -> None:
    """Gives JAX a CPU device per core, unless the user or an accelerator decides.

    Blocks of particles then run side by side, which on CPUs is faster than sharing each
    small operation between cores. Results do not depend on it: there are two at least,
    since programs for one alone may have other last bits. Has no effect on
    accelerators, nor once JAX is in use.
    """
    if (
        "JAX_NUM_CPU_DEVICES" in os.environ
        or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    ):
        return
    # The cores that this process may run on, where the system can tell.
    cores = (
        len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    )
    with contextlib.suppress(RuntimeError):  # JAX is in use.
        jax.config.update("jax_num_cpu_devices", max(2, cores))
