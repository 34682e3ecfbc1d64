"""How much of the way to where tuned Adam ends trainings make, on one problem."""

from typing import NamedTuple

import numpy as np

from meta_test import statistics
from meta_test.aggregates import normalised
from meta_test.inner_loop import Curve


class Way(NamedTuple):
    r"""From the initial parameters to where tuned Adam ends, in the train loss.

    Of a loss L, with the median initial loss $L_0$ and the median final one A of Adam,

    $$ n = \min\left(\frac{L - A}{L_0 - A}, 1\right) $$

    is left of the way, less than 0 beyond its end, and all of it where a training
    diverged.
    """

    initial: float
    end: float

    @classmethod
    def of(cls, reference: Curve) -> "Way":
        """The way that trainings of tuned Adam make; a curve `[seeds]`."""
        losses = statistics.final_losses(reference, "train")
        return cls(
            initial=float(np.median(reference.initial.train_loss)),
            end=float(statistics.quantile(losses, 0.5)),
        )

    def left(self, curve: Curve) -> np.ndarray:
        """N of a curve `[seeds]`.

        Raises:
            ValueError: Adam ends no lower than it begins.
        """
        losses = statistics.final_losses(curve, "train")
        return normalised(losses, self.initial, self.end)

    def lost(self, plain: Curve, varied: Curve) -> np.ndarray:
        r"""What trainings lose of the way that they make where nothing is varied.

        $$ \frac{n' - n}{1 - n} \in [-1, 1], $$

        seed by seed, below 0 for a gain. A training that makes no way, n = 1, has
        nothing to lose: it counts as having lost all.

        Args:
            plain: a curve `[seeds]`.
            varied: another, at the same seeds.
        """
        before, after = self.left(plain), self.left(varied)
        makes = before < 1
        share = np.divide(
            after - before, 1 - before, out=np.ones_like(before), where=makes
        )
        return np.clip(share, -1, 1)
