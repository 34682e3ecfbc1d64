"""Four small tables of measurements, as distributed with scikit-learn.

| name | examples | features | classes |
|---|---|---|---|
| breast_cancer | 569 | 30 of the nuclei of cells | malignant or benign |
| diabetes | 442 | 10 of a patient | quarters of progression after a year |
| iris | 149 | 4 lengths of a flower | 3 species |
| wine | 178 | 13 of a chemical analysis | 3 growers |

breast_cancer: Wolberg, Mangasarian, Street and Street (1993); iris: Fisher (1936);
wine: Aeberhard and Forina (1992); all three UCI Machine Learning Repository, CC BY 4.0.
diabetes: Efron, Hastie, Johnstone and Tibshirani, "Least angle regression" (2004), who
state no licence; scikit-learn distributes it under BSD-3-Clause.

A row that equals an earlier one is left out (one of iris), so that no example is in two
splits. Columns are standardised by the mean and deviation of the train split, so that
nothing is learnt from the others.
"""

import functools
from collections.abc import Mapping

import numpy as np

from tasks.base import SPLITS
from tasks.data.arrays import Examples, deal
from tasks.data.packaged import SHARES, read_packaged


SHA256 = "bc65083753ab1721e5dc84d72201d048d7ca2bb78443aaa66faaf153be619f74"
SOURCES: Mapping[str, str] = {
    "breast_cancer": "Wolberg, Mangasarian, Street and Street (1993), "
    "UCI Machine Learning Repository, from scikit-learn",
    "diabetes": "Efron, Hastie, Johnstone and Tibshirani (2004), from scikit-learn",
    "iris": "Fisher (1936), UCI Machine Learning Repository, from scikit-learn",
    "wine": "Aeberhard and Forina (1992), UCI Machine Learning Repository, "
    "from scikit-learn",
}
LICENCES: Mapping[str, str] = {
    "breast_cancer": "CC BY 4.0",
    "diabetes": "BSD-3-Clause, as part of scikit-learn",
    "iris": "CC BY 4.0",
    "wine": "CC BY 4.0",
}


@functools.cache
def breast_cancer() -> Examples:
    """Tumours by features of their cells' nuclei: `[examples, 30]`, 2 classes."""
    return _load("breast_cancer")


@functools.cache
def diabetes() -> Examples:
    """Patients by age, sex and blood: `[examples, 10]`, 4 classes."""
    return _load("diabetes")


@functools.cache
def iris() -> Examples:
    """Irises by lengths of sepals and petals: `[examples, 4]`, 3 classes."""
    return _load("iris")


@functools.cache
def wine() -> Examples:
    """Wines by chemical analysis: `[examples, 13]`, 3 classes."""
    return _load("wine")


def _load(name: str) -> Examples:
    arrays = read_packaged("tabular.npz", SHA256)
    rows, labels = arrays[f"{name}_rows"], arrays[f"{name}_labels"].astype(np.int32)
    firsts = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    dealt = deal(rows[firsts], labels[firsts], int(labels.max()) + 1, SHARES, seed=0)
    mean, deviation = (f(dealt.inputs["train"], axis=0) for f in (np.mean, np.std))
    standardised = {
        s: ((dealt.inputs[s] - mean) / deviation).astype(np.float32) for s in SPLITS
    }
    return dealt._replace(inputs=standardised)
