"""Devices of a run on a CPU: one virtual device a core."""

import os

import jax


def use_all_cores() -> None:
    """Gives JAX a CPU device per core, unless the user or an accelerator decides.

    Blocks of particles then run side by side, which on CPUs is faster than sharing each
    small operation between cores. Results do not depend on it. Must be called before
    JAX is first used; has no effect on accelerators.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
