"""A guard: a learned optimizer while it helps, a hand-designed one when it does not."""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.config import require_positive, require_positive_int, require_range
from l2o.learned.base import require_steps
from l2o.safeguard.events import (
    Events,
    GuardEvent,
    Reason,
    listed,
    no_events,
    noted,
)
from l2o.safeguard.levels import (
    Level,
    Window,
    above,
    add,
    at_end,
    empty,
    level_of,
    unknown,
)
from l2o.safeguard.parameters import (
    all_finite,
    choose,
    euclidean,
    growth,
    in_step,
    in_types_of,
    least_size,
    way,
)


class Mode(enum.IntEnum):
    """What a guard is doing."""

    RACE_LEARNED = 0  # the learned optimizer's leg of the race that it begins with
    RACE_FALLBACK = 1  # the fallback's
    LEARNED = 2  # the learned optimizer steps
    FALLBACK = 3  # the fallback steps


class GuardState(NamedTuple):
    """State of `guard`."""

    mode: jax.Array  # shape=(), dtype=jnp.int32: of `Mode`
    step: jax.Array  # shape=(), dtype=jnp.int32: calls of update
    stage: jax.Array  # shape=(), dtype=jnp.int32: of the race, 0 to 2
    leg: jax.Array  # shape=(), dtype=jnp.int32: steps made in this leg
    bad: jax.Array  # shape=(), dtype=jnp.int32: steps skipped in a row
    learned: Any  # the learned optimizer's state
    fallback: Any  # the fallback's
    point: optax.Params  # in the race, the other one's; then the learned one's best
    size: jax.Array  # the largest norm that it had
    before: Window  # of the earlier half of this leg
    window: Window  # of the later half, or since the last window
    interval: Window  # since the last look at progress
    look: jax.Array  # shape=(), dtype=jnp.int32: the call of the next one
    past: tuple[Level, Level]  # of the last two intervals, the older one first
    first: jax.Array  # the first loss
    rival: tuple[Level, Level]  # of the learned optimizer, in the halves of its leg
    rival_lowest: jax.Array  # its lowest loss of the later half
    best: Level  # its lowest of a window
    recent: Level  # of the fallback, in its last window
    ends: jax.Array  # shape=(), dtype=jnp.int32: the call at which both are compared
    events: Events


def guard(
    tx: optax.GradientTransformation,
    fallback: optax.GradientTransformation | None = None,
    *,
    num_steps: int | jax.Array | None = None,
    cost: float = 0.1,
    confidence: float = 2.0,
    rise: float = 0.025,
    remembered: int = 8,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs an optimizer while it helps, and a hand-designed one when it does not.

    It holds for any `tx`: one that diverges, at once or late, one that emits NaN, one
    that ascends, one that stands still.

    **The race.** The training begins with one. With w = floor(`cost` N) - 6 for N =
    `num_steps`, or 64 where that is not given, both optimizers make w steps from the
    initial parameters, each on its own way, in three stages: w/8, w/4 and the rest;
    they are compared at equal numbers of steps. Let $m_1, m_2$ be the mean losses of
    the halves of a leg, $v_1, v_2$ the variances of these means (from differences of
    neighbouring losses: a trend is no noise), and $e = m_2 + (m_2 - m_1) / 2$ where the
    line through them is at the end of the leg. After the last stage the learned
    optimizer L is out, beside the fallback F, if

    $$ m_2^L - m_2^F > z \sqrt{v_2^L + v_2^F} \quad \text{or} \quad e^L - e^F >
       \tfrac z2 \sqrt{\tfrac94 (v_2^L + v_2^F) + \tfrac14 (v_1^L + v_1^F)} $$

    with z = `confidence`: if it is behind, or about to be. After the first and second
    it is out if it has come less than 1/2 and 3/4 as far, beyond noise. Where half a
    leg has fewer than 4 losses the noise is not known (after the first below w = 49,
    after the second below w = 25: `num_steps` of 550 and 310 at the default `cost`),
    and it is then only out if it has come out above where it began. At every stage it
    is also out if all its losses of the second half are above the fallback's mean, by
    noise and what is behind: in an explosion its own variance says nothing. Out is
    for good: the fallback goes on from the end of its own leg. Else the learned
    optimizer goes on from the end of its own. A fallback that breaks down in its leg,
    as below, loses.

    **Between.** The parameters after the best window of losses are kept (a window is
    max(8, count/24) losses). It is back to them and on with the fallback, begun afresh,

    * `refused`: if an update is not finite, or would make the norm of the parameters
      more than 1000 times the largest that was kept, or that of weights of 0.01 (4
      times in bfloat16: going back is an addition, exact to the rounding of the larger
      end). It is not applied.
    * `not_finite`: if the loss or the gradient is not finite twice in a row. Once may
      be the batch's fault: such a step is skipped, and no state sees it.
    * `rose`: if a window's mean is above the best by 2z deviations and `rise` times
      what was gained since the first loss, or all its losses are by the latter.
    * `stalled`: if the mean loss since the last look is not below that of two looks
      before by z/2 deviations; looks are at calls that grow by a quarter.

    Where the fallback then ends above the best that was kept, by z deviations, the last
    call (of `num_steps`; without it the one at twice the calls of the switch)
    `returned` to that. It is measured in its last window, or where it has had no whole
    one, in what there is of it.

    **Guarantee.** Who loses the race has cost w/8 + 1 calls, 3w/8 + 3, or w + 5 (in
    short trainings, as above, the latter), and from then on the training is the
    fallback's alone, to rounding, for the way back from p to q is the addition
    p + (q - p); bit for bit where the learned optimizer had not moved (on the batches
    of its calls, and with the rate of its schedule there). Who wins it was not worse,
    as far as noise lets one tell, after w steps from the same start; no window of
    losses ends more than `rise` and noise above the best one without the way back to
    that. In trainings so short that w is below 12 the last stage, too, has fewer than
    4 losses to decide on, and takes them as if they had no noise or little.
    What is not promised: that the fallback does from the learned optimizer's best what
    it would have done from the start, and that who is merely slow, after the race, is
    found out.

    **In a chain** it is the last one: what alters updates after it would also alter
    the ways between, which then miss their ends.

    **Cost.** At most w + 6 calls, which is `cost` N (70 without `num_steps`; 9 for
    trainings so short that w would be below 3): the legs of the loser, and the ways
    between. One optimizer is computed a step, except under vmap, where all branches
    are. Beside those: a norm, and a look whether all is finite. Memory: one float a
    parameter, and the states of both.

    **Schedules.** When the fallback takes over, those of its schedules that optax
    counts (`optax.scale_by_schedule`, `optax.inject_hyperparams`) are set to the number
    of calls, so that they end with the training. Its moments are those of its leg; once
    the learned optimizer has run alone they begin anew, for those of the leg are old,
    and of what went wrong since there shall be nothing in them.

    Args:
        tx: the optimizer that is guarded.
        fallback: the one that is trusted; `optax.adamw(1e-3)` by default. What is
            claimed is relative to it.
        num_steps: N, of the training; may be traced.
        cost: share of the steps that may be lost.
        confidence: z.
        rise: share of what was gained that may be lost again.
        remembered: decisions that the state remembers.

    Returns:
        A transformation whose `update` needs `params` and `value`, the loss at them.
        These and all other arguments are handed to both optimizers.

    Raises:
        ValueError: a setting is out of range, or `update` lacks `params` or `value`.

    Example:
        tx = l2o.guard(l2o.optimizer("digits-mlp", num_steps=1000), num_steps=1000)
        updates, state = tx.update(grads, state, params, value=loss)
        l2o.guard_events(state)  # (GuardEvent(step=193, reason='won'),)

    Source: this project, after Premont-Schwarz et al. 2022, "A simple guard for learned
    optimizers", arXiv 2201.12426, where every so many steps both are run and the lower
    loss is taken, and Heaton et al. 2023, "Safeguarded learned convex optimization",
    arXiv 2003.01880. Theirs compare from the learned optimizer's points; here the race
    is from the start, for a point may have a low loss and be a bad one to go on from.
    """
    tx = optax.with_extra_args_support(tx)
    own = optax.with_extra_args_support(fallback or optax.adamw(1e-3))
    require_range("cost", cost, 1e-3, 0.5)
    require_positive("confidence", confidence)
    require_positive("rise", rise)
    require_positive_int("remembered", remembered)
    if num_steps is not None:
        require_steps(num_steps)
    legs = _legs(num_steps, cost)
    end = _NEVER if num_steps is None else jnp.asarray(num_steps, jnp.int32) - 1

    def init(params: optax.Params) -> GuardState:
        # An array for every field: a state may be donated, and a buffer only once.
        zero = lambda: jnp.zeros((), jnp.int32)
        return GuardState(
            mode=jnp.asarray(int(Mode.RACE_LEARNED), jnp.int32),
            step=zero(),
            stage=zero(),
            leg=zero(),
            bad=zero(),
            learned=tx.init(params),
            fallback=own.init(params),
            point=jax.tree.map(lambda p: jnp.array(p, copy=True), params),
            size=euclidean(params),
            before=empty(),
            window=empty(),
            interval=empty(),
            look=zero(),
            past=(unknown(), unknown()),
            first=jnp.full((), jnp.inf, jnp.float32),
            rival=(unknown(), unknown()),
            rival_lowest=jnp.full((), jnp.inf, jnp.float32),
            best=unknown(),
            recent=unknown(),
            ends=jnp.array(end, jnp.int32, copy=True),
            events=no_events(remembered),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        value: jax.Array | float | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GuardState]:
        if params is None or value is None:
            missing = "params" if params is None else "value, the loss"
            raise ValueError(
                f"guard needs {missing}: call update(grads, state, params, value=loss),"
                " got None"
            )
        state = jax.tree.map(jnp.asarray, state)  # It may have been on a disk.
        loss = jnp.asarray(value, jnp.float32)
        mode, leg, past = state.mode, state.leg, state.past
        falling = mode == Mode.FALLBACK
        alone = mode == Mode.LEARNED
        racing = ~falling & ~alone
        length = legs[state.stage]
        # Alone, the fallback would take a loss that is not finite with a gradient that
        # is.
        sane = all_finite(updates) & (falling | jnp.isfinite(loss))

        is_late = ~racing | (leg > length // 2)
        watched = sane & jnp.isfinite(loss)
        before = choose(watched & ~is_late, add(state.before, loss), state.before)
        window = choose(watched & is_late, add(state.window, loss), state.window)
        interval = choose(sane & alone, add(state.interval, loss), state.interval)
        level, progress = level_of(window), level_of(interval)
        first = jnp.where(jnp.isinf(state.first) & watched, loss, state.first)

        # Of the race.
        ended = sane & racing & (leg == length)
        turns = ended & (mode == Mode.RACE_LEARNED)
        decides = ended & (mode == Mode.RACE_FALLBACK)
        early = state.stage < 2
        # At first only one that has not come so far, of the fallback's way.
        behind = jnp.array([0.5, 0.25, 0.0])[state.stage]
        behind *= jnp.maximum(first - level.mean, 0.0)
        lost = above(state.rival[1], level, confidence, behind)
        # An explosion is also one of the variance: then all losses are above.
        lowest = Level(state.rival_lowest, jnp.zeros_like(state.rival_lowest))
        lost |= above(lowest, level, confidence, behind)
        theirs = at_end(*state.rival), at_end(level_of(before), level)
        lost |= ~early & above(*theirs, confidence / 2)
        # Of few losses the noise is not known: the last stage tells, but for one that
        # has come out above where it began.
        sure = (window.number >= _FEW) | (state.rival[1].mean > first)
        lost &= decides & (~early | sure)
        returns = decides & ~lost & early
        gone = ~sane & (state.bad > 0)
        broken = gone & (mode == Mode.RACE_FALLBACK)
        wins = (decides & ~lost & ~early) | broken

        # Of the learned optimizer alone, then of the fallback.
        whole = watched & ~racing & (window.number >= _width(state.step))
        allowed = rise * jnp.maximum(first - state.best.mean, 0.0)
        rose = window.lowest > state.best.mean + allowed
        rose |= above(level, state.best, 2 * confidence, allowed)
        rose &= whole & alone
        usual = loss <= level.mean + 5 * jnp.sqrt(level.variance * window.number)
        better = whole & alone & ~rose & usual & (level.mean <= state.best.mean)
        looks = sane & alone & (state.step >= state.look)
        stalled = looks & ~above(past[0], progress, confidence / 2)
        fails = rose | stalled | (gone & ~falling & ~broken)
        recent = choose(whole & falling, level, state.recent)
        ends = falling & (state.step == state.ends)
        # One that took over just now has but a part of a window.
        partial = jnp.isinf(recent.mean) & (window.number > 0)
        latest = choose(partial, level, recent)
        ends &= above(latest, state.best, confidence)

        stores = turns | returns | better
        norm = jnp.maximum(state.size, euclidean(params))
        size = jnp.where(stores, norm, state.size)
        limit = growth(params) * jnp.maximum(size, least_size(params))
        given: dict[str, Any] = {**extra_args, "value": value}

        def stop() -> Any:
            zeros = jax.tree.map(jnp.zeros_like, params)
            return zeros, state.learned, state.fallback, jnp.asarray(True)

        def afresh(point: Any) -> Any:
            return jax.tree.map(
                lambda new, old: jnp.asarray(new, old.dtype),
                own.init(point),
                state.fallback,
            )

        def jump() -> Any:
            own_state = jax.lax.cond(
                fails & alone, lambda: afresh(state.point), lambda: state.fallback
            )
            steps = way(params, state.point)
            return steps, state.learned, own_state, jnp.asarray(True)

        def watch(steps: Any, ok: jax.Array | bool) -> tuple[Any, jax.Array]:
            """An update, or where it is refused the way back."""
            moved = jax.tree.map(jnp.add, params, steps)
            ok |= all_finite(moved) & (euclidean(moved) <= limit)
            back = way(params, state.point)
            return choose(ok, in_types_of(steps, params), back), ok

        def learn() -> Any:
            steps, learned = tx.update(updates, state.learned, params, **given)
            # Some widen their state to the gradients' type.
            learned = in_types_of(learned, state.learned)
            steps, ok = watch(steps, False)
            own_state = jax.lax.cond(
                alone & ~ok, lambda: afresh(state.point), lambda: state.fallback
            )
            return steps, learned, own_state, ok

        def fall_back() -> Any:
            steps, own_state = own.update(updates, state.fallback, params, **given)
            own_state = in_types_of(own_state, state.fallback)
            # After the race it is on its own.
            steps, ok = watch(steps, falling | lost)
            return steps, state.learned, own_state, ok

        jumps = turns | returns | wins | ends | fails
        learns = alone | (mode == Mode.RACE_LEARNED)
        chosen = jnp.select([jumps, ~sane, learns], [0, 1, 2], 3)
        steps, learned, own_state, ok = jax.lax.switch(
            chosen, [jump, stop, learn, fall_back]
        )
        point = jax.lax.cond(
            stores, lambda: in_types_of(params, state.point), lambda: state.point
        )

        wins |= ~ok & (mode == Mode.RACE_FALLBACK)
        falls = fails | lost | (~ok & ~wins)
        reason = jnp.select(
            [wins, lost, rose, stalled, fails, ~ok, ends], list(Reason), 0
        ).astype(jnp.int32)
        count = jnp.asarray(optax.safe_increment(state.step))
        moved_on = looks & ~falls
        cleared = whole | ended | falls | wins
        return steps, GuardState(
            mode=jnp.select(
                [falls, wins, turns, returns],
                [Mode.FALLBACK, Mode.LEARNED, Mode.RACE_FALLBACK, Mode.RACE_LEARNED],
                mode,
            ).astype(jnp.int32),
            step=count,
            stage=state.stage + returns,
            leg=jnp.where(ended, 0, leg + (sane & racing)),
            bad=jnp.where(sane, 0, state.bad + 1),
            learned=learned,
            fallback=in_step(own_state, count, falls),
            point=point,
            size=size,
            before=choose(cleared, empty(), before),
            window=choose(cleared, empty(), window),
            interval=choose(moved_on | wins, empty(), interval),
            look=jnp.where(moved_on | wins, _next_look(count), state.look),
            past=choose(moved_on, (past[1], progress), past),
            first=first,
            rival=choose(turns, (level_of(before), level), state.rival),
            rival_lowest=jnp.where(turns, window.lowest, state.rival_lowest),
            best=choose(wins, state.rival[1], choose(better, level, state.best)),
            recent=recent,
            ends=jnp.where(falls & (state.ends == _NEVER), 2 * count, state.ends),
            events=noted(state.events, state.step, reason, falls, ~sane),
        )

    return optax.GradientTransformationExtraArgs(init, update)


_NEVER = np.iinfo(np.int32).max
_FEW = 4
"""Losses of a window that decide before the end of the race."""


def _legs(num_steps: int | jax.Array | None, cost: float) -> jax.Array:
    """`[3]` steps that each optimizer makes in a stage of the race."""
    if num_steps is None:
        return jnp.array([8, 16, 40], jnp.int32)
    total = jnp.asarray(num_steps, jnp.float32)
    whole = jnp.maximum(jnp.floor(cost * total) - 6, 3)
    first, second = jnp.ceil(whole / 8), jnp.ceil(whole / 4)
    return jnp.stack([first, second, whole - first - second]).astype(jnp.int32)


def _width(count: jax.Array) -> jax.Array:
    """Losses in a window."""
    return jnp.maximum(count // 24, 8)


def _next_look(count: jax.Array) -> jax.Array:
    """The call of the next look at progress."""
    return count + jnp.maximum(count // 4, 8)


def guard_summary(state: Any) -> Events:
    """The decisions of the guard in an optimizer's state, as arrays; may be traced.

    Args:
        state: of `guard`, or of an optax wrapper around it.

    Raises:
        ValueError: not exactly one guard is in it.
    """
    is_guard = lambda x: isinstance(x, GuardState)
    found = [x for x in jax.tree.leaves(state, is_leaf=is_guard) if is_guard(x)]
    if len(found) != 1:
        raise ValueError(f"the state must hold one guard, got {len(found)}")
    return found[0].events


def guard_events(state: Any) -> tuple[GuardEvent, ...]:
    """The last decisions of the guard in an optimizer's state, in their order."""
    return listed(guard_summary(state))
