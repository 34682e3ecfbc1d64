import jax
import jax.numpy as jnp
import pytest

from tests.helpers import assert_no_recompile, count_compiles, run_python


def test_no_recompile_lets_a_cached_program_pass():
    double = jax.jit(lambda x: 2 * x)
    x, y = jnp.ones(3), jnp.zeros(3)
    double(x)
    with assert_no_recompile():
        double(y)


def test_no_recompile_names_what_was_compiled():
    @jax.jit
    def double(x):
        return 2 * x

    x, longer = jnp.ones(3), jnp.ones(4)
    double(x)
    with pytest.raises(pytest.fail.Exception, match="double"), assert_no_recompile():
        double(longer)
    with count_compiles() as names:
        double(longer)
    assert names == []


def test_subprocess_has_the_devices_asked_for():
    assert run_python("import jax; print(jax.device_count())", devices=8) == "8\n"


def test_subprocess_reports_failure():
    with pytest.raises(pytest.fail.Exception, match="exit status 1"):
        run_python("assert False")


def test_x64_fixture(x64):
    assert jnp.ones(()).dtype == jnp.float64


def test_rank_promotion_is_an_error():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.add(jnp.ones((2, 3)), jnp.ones(3))


def test_rank_promotion_can_be_allowed(rank_promotion):
    assert (jnp.ones((2, 3)) + jnp.ones(3)).shape == (2, 3)


@pytest.mark.gpu
def test_gpu_tests_run_on_a_gpu():
    assert jax.default_backend() == "gpu"
