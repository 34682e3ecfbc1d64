"""Suites by name.

A published suite never changes: a change of cells, horizons, seeds or evaluation is a
new version, or a new name. Importing this reads no data.
"""

from l2o.config import nearest
from meta_test.suites.base import Cell as Cell, Suite as Suite
from meta_test.suites.digits import DIGITS, QUICK
from meta_test.suites.ood import OOD, OOD_SMALL
from meta_test.suites.probes import HORIZONS, REPARAM, WIDTHS
from meta_test.suites.train import TRAIN, TRAIN_SMALL, TRAIN_WIDE
from meta_test.suites.validation import VALIDATION, VALIDATION_WIDE


SUITES = {
    suite.name: suite
    for suite in (
        QUICK,
        DIGITS,
        TRAIN_SMALL,
        TRAIN,
        TRAIN_WIDE,
        VALIDATION,
        VALIDATION_WIDE,
        OOD_SMALL,
        OOD,
        HORIZONS,
        WIDTHS,
        REPARAM,
    )
}


def suite_named(name: str, where: str = "a suite") -> Suite:
    """The suite of that name.

    Args:
        name: of the suite.
        where: what asks for it, for the error message.

    Raises:
        ValueError: there is none.
    """
    if name not in SUITES:
        raise ValueError(
            f"{where} must be one of {', '.join(SUITES)}, "
            f"got {name!r}{nearest(str(name), SUITES)}"
        )
    return SUITES[name]
