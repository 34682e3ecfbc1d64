"""What makes a learned optimizer safe to use: `l2o.guard`."""

from l2o.safeguard.events import (
    Events as Events,
    GuardEvent as GuardEvent,
    Reason as Reason,
    listed as listed,
)
from l2o.safeguard.guard import (
    GuardState as GuardState,
    Mode as Mode,
    guard as guard,
    guard_events as guard_events,
    guard_summary as guard_summary,
)
