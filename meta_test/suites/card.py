"""The three small problems of report cards, on data that no train suite has.

They are frozen like a suite that is published, but nothing to be judged on by itself:
`meta_test.card` varies them.
"""

from meta_test.suites.base import Cell, Suite
from meta_test.suites.ood import SEEDS


HORIZON = 500

CARD = Suite(
    name="card",
    version=1,
    about="what report cards vary: seconds an optimizer",
    cells=(
        Cell(
            name="mlp 40 on fashion",
            probes="plain ground",
            task={"family": "image_mlp", "data": "fashion_mnist@8", "hidden": (40,)},
            horizon=HORIZON,
            seeds=SEEDS,
        ),
        Cell(
            name="autoencoder on digits",
            probes="a bottleneck, no labels",
            task={
                "family": "image_autoencoder",
                "data": "digits",
                "hidden": (24, 6, 24),
            },
            horizon=HORIZON,
            seeds=SEEDS,
        ),
        Cell(
            name="softmax regression on wine",
            probes="convex; starts at zero, whatever the scale of initial weights",
            task={"family": "softmax_regression", "data": "wine", "batch_size": 32},
            horizon=HORIZON,
            seeds=SEEDS,
        ),
    ),
    num_records=50,
)
