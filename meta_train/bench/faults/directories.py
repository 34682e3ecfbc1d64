"""Mistakes with the directory of a run."""

from operator import attrgetter

from meta_train.bench.faults.lab import Lab, Variant, last_line
from meta_train.bench.faults.tally import Tally


def changed_config(lab: Lab, trials: int) -> Tally:
    """A run is continued with another value of a field: refused by its name."""
    tally = Tally()
    fields = ("outer.learning_rate=0.5", "estimator.sigma=0.5", "seed=7")
    for i in range(trials):
        out = lab.copy_of_reference("changed")
        change = fields[i % len(fields)]
        life = lab.start(out, variant=Variant(overrides=(change,)))
        statuses, said = life.end(), last_line(life.said)
        if statuses != [1] or f"{change.partition('=')[0]} was" not in said:
            tally.add(f"{change} ended with {statuses}: {said}")
        else:
            tally.add(lab.differs(out))
    return tally


def finished(lab: Lab, trials: int) -> Tally:
    """A run that is finished is continued: nothing is done, in good order."""
    tally = Tally()
    for _ in range(trials):
        tally.add(lab.finish(lab.copy_of_reference("finished")))
    return tally


def two_runs(lab: Lab, trials: int) -> Tally:
    """A second run begins in a directory: it is refused, and disturbs nothing."""
    tally = Tally()
    for _ in range(trials):
        out = lab.new("two")
        # It is not done before the second has begun.
        first = lab.start(out, variant=Variant("slow_disk=0.1"))
        if not first.until(attrgetter("is_compiling")):
            tally.add(f"the first ended with {first.end()}")
            continue
        second = lab.start(out)
        refused = second.end()
        ended = first.end()
        said = [line for line in second.said.splitlines() if "error: " in line]
        if refused != [1] or not any("in use by process" in line for line in said):
            tally.add(f"the second ended with {refused}: {said}")
        elif any(ended):
            tally.add(f"the first ended with {ended}")
        else:
            tally.add(lab.differs(out))
    return tally
