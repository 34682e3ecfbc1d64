"""What one wants to know of a model and an optimizer while one looks at a run.

    product = lambda v: l2o.inspect.hessian_vector_product(loss, params, v, batch)
    top = l2o.inspect.largest_eigenvalues(product, params, key, count=3, steps=30)
    trace = l2o.inspect.hutchinson_trace(product, params, key, probes=16)

Pure functions of a loss `(params, *args) -> scalar` and a tree of parameters; all run
under `jax.jit`. What takes a `product` takes any symmetric linear map from trees like
the parameters to such trees.
"""

from l2o.inspect.curvature import (
    estimate_ggn_diagonal,
    estimate_hessian_diagonal,
    exact_diagonal,
    ggn_diagonal,
    ggn_vector_product,
    hessian_diagonal,
    hessian_vector_product,
    hutchinson_diagonal,
    hutchinson_trace,
)
from l2o.inspect.examples import (
    GradientMoments,
    NoiseScale,
    gradient_moments,
    gradient_noise_scale,
    noise_scale_of_batches,
    per_example_gradients,
    per_example_norms,
)
from l2o.inspect.spectrum import (
    density_on_grid,
    largest_eigenvalues,
    spectral_density,
)
from l2o.inspect.weights import (
    cosine_similarity,
    effective_learning_rates,
    stable_ranks,
)


__all__ = [
    "GradientMoments",
    "NoiseScale",
    "cosine_similarity",
    "density_on_grid",
    "effective_learning_rates",
    "estimate_ggn_diagonal",
    "estimate_hessian_diagonal",
    "exact_diagonal",
    "ggn_diagonal",
    "ggn_vector_product",
    "gradient_moments",
    "gradient_noise_scale",
    "hessian_diagonal",
    "hessian_vector_product",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "largest_eigenvalues",
    "noise_scale_of_batches",
    "per_example_gradients",
    "per_example_norms",
    "spectral_density",
    "stable_ranks",
]
