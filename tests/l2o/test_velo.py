"""What the LSTM of VeLO reads of a tensor."""

import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import groups
from l2o.learned.velo import _variance


@pytest.mark.parametrize("batched", [groups.BATCHED, 0])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.1, 1e-4), (-3.0, 10.0)])
def test_variance_in_either_way(monkeypatch, batched, mean, deviation):
    """Also where a momentum is nearly the same everywhere."""
    monkeypatch.setattr(groups, "BATCHED", batched)
    x = np.random.default_rng(0).normal(mean, deviation, size=(64, 64))
    x = x.astype(np.float32)
    got = _variance(jnp.array(x), jnp.array(x.mean(dtype=np.float64), jnp.float32))
    assert got == pytest.approx(x.astype(np.float64).var(), rel=3e-3)
