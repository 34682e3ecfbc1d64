"""Augmentations: families made of other families, to vary what an optimizer meets.

An augmentation wraps a family, its field `inner`, and is a family itself, so that they
nest; the outermost acts last. Its specification is that of the inner family and what it
draws itself. Some change the problem (`parameters`, `objective`), some only what the
inner loop is told of the gradient (`gradients`, `evolution`): the loss that is judged
stays. After the task distribution of VeLO (Metz et al. 2022), whose mixture of them is
`tasks.augmentations.recipe`.
"""

from tasks.augmentations.evolution import EvolutionGradient as EvolutionGradient
from tasks.augmentations.gradients import (
    DelayGradient as DelayGradient,
    NormaliseGradient as NormaliseGradient,
    SubsampleDirections as SubsampleDirections,
)
from tasks.augmentations.objective import (
    ReduceBatch as ReduceBatch,
    ScaleLoss as ScaleLoss,
)
from tasks.augmentations.parameters import (
    LowPrecision as LowPrecision,
    Reparametrise as Reparametrise,
)
