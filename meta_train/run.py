"""The run loop: dispatch, record, save, stop in good order.

Several processes run it in step. What depends on a clock, a signal or the disk, process
0 decides and tells; what follows from the state, all find alike.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

import l2o
from l2o.config import config_hash, to_dict
from l2o.processes import ALONE, Peers, keeping_programs
from l2o.storage import read_manifest
from meta_test.suites import suite_named
from meta_train.books import Books, Lengths, NoBooks, RunBooks
from meta_train.build import block_mesh, placed, state_sharding, warm_start
from meta_train.compiling import compile_dispatch, is_kept, until_done
from meta_train.config import TrainConfig
from meta_train.directory import Restored, RunDirectory
from meta_train.divergence import require_same
from meta_train.goodput import STEPS, Ledger, Stragglers
from meta_train.metrics import summarise
from meta_train.outer import OuterMetrics, OuterState, OuterTrainer
from meta_train.progress import Progress
from meta_train.saver import Saver
from meta_train.signals import Interrupted, StopSignal
from meta_train.threads import in_thread
from meta_train.validation import Best, score
from meta_train.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        step: outer steps made.
        finished: whether that is all of them.
        stopped_by: name of the signal that stopped it, or `budget`, else None.
        last: the last row of metrics of this process, None when it made no step.
        seconds: spent in the loop, over all lives of the run.
        inner_steps: made over all lives of the run.
    """

    step: int
    finished: bool
    stopped_by: str | None
    last: dict[str, Any] | None
    seconds: float
    inner_steps: int


BUDGET = "budget"
"""What `RunResult.stopped_by` says when the time was over."""


START_SECONDS = 3600.0
"""How long restoring, compiling or the last checkpoint of a process may take."""


class NonFiniteError(ArithmeticError):
    """The meta-loss was not finite for too many outer steps."""


def run(
    config: TrainConfig,
    trainer: OuterTrainer,
    directory: RunDirectory,
    *,
    resume: bool,
    stop: StopSignal,
    progress: Progress,
    deadline: float | None = None,
    peers: Peers = ALONE,
) -> RunResult:
    """Meta-trains until the end, a signal or a deadline.

    It writes the optimizer at the end, and when the time is over: the best theta where
    the config asks for validation, else the last.

    What it writes depends on the config and the code alone, not on where it was
    interrupted: theta and `metrics.jsonl` come out bit for bit the same.

    Args:
        config: what to do.
        trainer: built from it.
        directory: where; locked by the caller.
        resume: continue the run that is there, if there is one.
        stop: noted signals; asked between dispatches.
        progress: where to report.
        deadline: when to stop, on the clock `time.monotonic`; None for never.
        peers: the processes that run it.

    Returns:
        How it ended, the same for all.

    Raises:
        ValueError: there is a run and it is not to be resumed, or has another config.
        CheckpointError: there are checkpoints to resume from and none is good.
        NonFiniteError: no particle had a finite loss for `outer.max_skipped` steps.
        DivergenceError: theta differs between devices.
        PeersError: another process failed or is gone.
        OSError: the directory cannot be written; older checkpoints are intact.
    """

    def begin() -> bool:
        if directory.has_run:
            if not resume:
                raise ValueError(
                    f"a new run needs a directory of its own, {directory.path} holds a "
                    "run: pass --resume to continue it or --out for another place"
                )
            directory.require_same_config(config)
        else:
            directory.require_free()
            directory.write_config(config)
        return bool(directory.steps())

    has_steps = peers.by_first("begin", begin)
    if resume and not has_steps:
        progress.line("no checkpoint to resume from, beginning at zero")
    with (
        Watchdog(config.faults.hang_seconds) as watchdog,
        Saver(directory, config.checkpoint, peers) as saver,
    ):
        loop = _Loop(
            config, trainer, directory, stop, progress, deadline, peers, watchdog, saver
        )
        return loop.run()


class _Made(NamedTuple):
    """What a dispatch made: its row of metrics, and how many inner steps."""

    row: dict[str, Any]
    inner_steps: int


class _Begin(NamedTuple):
    """Where a process takes up the run."""

    state: OuterState
    step: int
    lengths: Lengths
    unjudged: _Made | None  # a signal has cut its validation short


class _Setback(NamedTuple):
    """How often a run was rolled back, and what came of it."""

    times: int = 0
    scale: float = 1.0  # of theta's movement
    step: int | None = None  # where it went back to, the last time


class _Plan(NamedTuple):
    """What process 0 decides before every dispatch."""

    stop: str | None  # why not to make it
    save: bool  # after it


class _Loop:
    """The state of `run`."""

    def __init__(
        self,
        config: TrainConfig,
        trainer: OuterTrainer,
        directory: RunDirectory,
        stop: StopSignal,
        progress: Progress,
        deadline: float | None,
        peers: Peers,
        watchdog: Watchdog,
        saver: Saver,
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._directory = directory
        self._stop = stop
        self._progress = progress
        self._deadline = deadline
        self._peers = peers
        self._watchdog = watchdog
        self._saver = saver
        self._ledger = Ledger("init")
        self._stragglers = Stragglers(peers)
        self._waited = 0.0  # for devices and processes, in this dispatch
        self._names = trainer.mix.names
        self._seconds = 0.0  # of the processes before this one
        self._inner_steps = 0  # of all processes
        self._best: Best | None = None
        self._began = time.monotonic()
        self._last: dict[str, Any] | None = None
        self._ended: str | None = None  # why, before all steps were made
        self._unjudged: _Made | None = None  # at the end
        self._setback = _Setback()
        self._background: list[Future[Any]] = []  # what threads make with JAX
        self._good: int | None = None  # the last checkpoint that was not skipped
        self._mesh = block_mesh(config.estimator)
        key = jax.random.key(config.seed)
        self._shapes = jax.eval_shape(lambda trainer: trainer.init(key), trainer)
        self._sharding = state_sharding(self._mesh, self._shapes)

    def run(self) -> RunResult:
        steps = self._config.outer.steps
        with self._watchdog.phase("the start", START_SECONDS), keeping_programs():
            try:
                started = self._start()
            except BaseException:
                # JAX is not to be taken down under a thread that uses it.
                wait(self._background)
                raise
        if started is None:
            return self._result(0, finished=False)
        begin, compiled = started
        state, step = begin.state, begin.step
        if compiled is not None or begin.unjudged is not None:
            state, step = self._train_on(begin, compiled)
        with self._watchdog.phase("the end", START_SECONDS):
            self._saver.wait()
            finished = step == steps and self._unjudged is None
            if finished or self._ended == BUDGET:
                self._peers.by_first("export", lambda: self._export(state, step))
        return self._result(step, finished=finished)

    def _result(self, step: int, *, finished: bool) -> RunResult:
        return RunResult(
            step=step,
            finished=finished,
            stopped_by=None if finished else self._ended,
            last=self._last,
            seconds=self._elapsed(),
            inner_steps=self._inner_steps,
        )

    def _start(self) -> tuple[_Begin, Any] | None:
        """Where to begin, and the program of a dispatch, None if none is made.

        None for both when a signal comes before there is anything to save.
        """
        # A signal that came before compilation is not kept waiting for it.
        self._ended = self._peers.agree("start", self._ended_by())
        # Files are read and written, and a first state is made, meanwhile.
        compiling = self._compile_kept() if self._ended is None else None
        restored = self._directory.restore(self._shapes, self._peers)
        step, before = 0, self._setback
        if restored is not None:
            step = restored.step
            self._set_back(_Setback(**restored.facts.get("setback", {})))
        wanted = step < self._config.outer.steps and self._ended is None
        if compiling is not None and not (wanted and self._setback == before):
            wait([compiling])
            compiling = None
        if wanted and compiling is None:
            compiling = self._compile()
        if restored is not None:
            begin = self._taken_up(restored)
        elif compiling is None:
            begin = self._new(self._drawn())
        else:
            drawing = in_thread(self._drawn)
            self._background.append(drawing)
            if not self._awaited(drawing, "drawn", lambda: self._stop.received):
                self._stop.abandoned = True
                return None
            begin = self._new(drawing.result())
        return begin, None if compiling is None else self._compiled(compiling)

    def _compiled(self, compiling: Future[Any]) -> Any:
        """The program when all processes have it; None when a signal comes before."""
        if not self._awaited(compiling, "compiled", self._ended_by):
            self._stop.abandoned |= not compiling.done()
            return None
        # A collective would not wait for one that compiles longer.
        with self._ledger.spending("waiting"):
            self._peers.barrier("compiled by all", START_SECONDS)
        return compiling.result()

    def _awaited(
        self, future: Future[Any], name: str, ended: Callable[[], str | None]
    ) -> bool:
        """Waits until this process has something, or all hear that it is over."""
        with self._ledger.spending("compile"):
            is_over = lambda: ended() is not None
            until_done(future, self._peers, is_over, f"not {name}")
            self._ended = self._peers.agree(name, ended())
        if self._ended is None:
            wait([future])
        return self._ended is None

    def _ended_by(self) -> str | None:
        """What says that it is time to stop: the name of a signal, or the budget."""
        if self._stop.received is not None:
            return self._stop.received
        over = self._deadline is not None and time.monotonic() >= self._deadline
        return BUDGET if over else None

    def _drawn(self) -> OuterState:
        key = jax.random.key(self._config.seed)
        given = warm_start(self._config, self._trainer.lopt)
        init = jax.jit(
            lambda trainer: trainer.init(key, given), out_shardings=self._sharding
        )
        return init(self._trainer)

    def _compile_kept(self) -> Future[Any] | None:
        """As `_compile`, if that takes a moment alone: no checkpoint was looked at."""
        if is_kept(self._trainer, self._shapes, self._sharding, self._mesh):
            return self._compile()
        return None

    def _compile(self) -> Future[Any]:
        self._progress.line(f"compiling, {len(jax.devices())} devices")
        compiling = compile_dispatch(
            self._trainer, self._shapes, self._sharding, self._mesh
        )
        self._background.append(compiling)
        return compiling

    def _new(self, state: OuterState) -> _Begin:
        # The first save comes before the first step: a directory that cannot hold a
        # checkpoint is found out at once.
        self._save(state, 0, Lengths(), skipped=0)
        self._saver.wait()
        return _Begin(state, 0, Lengths(), None)

    def _taken_up(self, restored: Restored) -> _Begin:
        for line in restored.damaged:
            self._progress.line(
                f"warning: a damaged checkpoint was set aside, resuming from outer "
                f"step {restored.step}: {line}"
            )
        facts = restored.facts
        self._seconds = facts["seconds"]
        self._inner_steps = facts["inner_steps"]
        self._best = Best(**facts["best"]) if facts["best"] else None
        state = placed(restored.state, self._sharding)
        self._good = None if facts.get("skipped") else restored.step
        unjudged = facts.get("unjudged")
        return _Begin(
            state,
            restored.step,
            Lengths(**facts["lengths"]),
            _Made(*json.loads(unjudged)) if unjudged else None,
        )

    def _set_back(self, setback: _Setback) -> None:
        self._setback = setback
        self._trainer = dataclasses.replace(self._trainer, scale=setback.scale)

    def _train_on(self, begin: _Begin, compiled: Any) -> tuple[OuterState, int]:
        """Trains to the end, by smaller steps from further back where it must be."""
        while True:
            try:
                return self._train(begin, compiled)
            except NonFiniteError as error:
                begin, compiled = self._rolled_back(error)
            if compiled is None:
                return begin.state, begin.step

    def _rolled_back(self, error: NonFiniteError) -> tuple[_Begin, Any]:
        """Where to go on after an error that it raises if that cannot be, and how."""
        faults, setback = self._config.faults, self._setback
        with self._watchdog.phase("a roll-back", START_SECONDS), keeping_programs():
            self._saver.wait()
            if setback.times == faults.rollbacks:
                raise error
            # Further back than before, as long as there is such a checkpoint.
            good = self._good_one(setback.step) or self._good_one(None)
            if good is None:
                raise error
            spent = self._elapsed(), self._inner_steps
            begin = self._taken_up(good)
            self._seconds, self._inner_steps = spent
            self._began = time.monotonic()
            scale = faults.rollback_scale * setback.scale
            self._set_back(_Setback(setback.times + 1, scale, good.step))
            self._progress.line(
                f"warning: {error}; rolled back to outer step {good.step}, steps are "
                f"multiplied by {scale:g} from there"
            )
            # Whoever resumes from here is to take the same steps.
            self._save(begin.state, good.step, begin.lengths, skipped=0)
            self._saver.wait()
            remove = lambda: self._directory.remove_after(good.step)
            self._peers.by_first("removal", remove)
            return begin, self._compiled(self._compile())

    def _good_one(self, before: int | None) -> Restored | None:
        return self._directory.find_good(self._shapes, before, self._peers)

    def _train(self, begin: _Begin, compiled: Any) -> tuple[OuterState, int]:
        with self._books(begin) as books, self._ledger.spending(STEPS):
            return self._steps(begin, compiled, books)

    def _books(self, begin: _Begin) -> Books:
        if not self._peers.is_first:
            return NoBooks()
        return RunBooks(self._directory, self._config, begin.step, begin.lengths)

    def _steps(
        self, begin: _Begin, compiled: Any, books: Books
    ) -> tuple[OuterState, int]:
        outer, state, step = self._config.outer, begin.state, begin.step
        self._began = saved = time.monotonic()
        last_saved = begin.step
        first = self._inner_steps
        judging = 0.0  # seconds that went into validation
        pending: OuterMetrics | None = None

        def record(row: dict[str, Any], inner_steps: int) -> None:
            self._inner_steps += inner_steps
            spent = time.monotonic() - self._began - judging
            rate = (self._inner_steps - first) / spent
            timing = {
                "step": row["step"],
                "seconds": self._elapsed(),
                "inner_steps_per_second": rate,
                "shares": self._ledger.shares(),
            }
            books.append(row, timing)
            self._last = row
            facts = _facts(row, rate)
            facts["in steps"] = f"{100 * timing['shares'].get(STEPS, 0.0):.0f} %"
            if self._best is not None:
                facts["best validation"] = f"{self._best.score:.3f}"
            families = row["families"]
            self._progress.update(row["step"], outer.steps, facts, table=families)
            if row["skipped"] >= outer.max_skipped:
                raise NonFiniteError(
                    "the meta-loss must be finite, no particle had a finite one in the "
                    f"{row['skipped']} outer steps up to {row['step']}: lower "
                    "estimator.sigma or outer.learning_rate"
                )

        def record_judged(state: OuterState, made: _Made) -> None:
            nonlocal judging
            began = time.monotonic()
            evaluation = self._judge(state, made.row["step"])
            judging += time.monotonic() - began
            self._unjudged = made if evaluation is None else None
            if evaluation is not None:
                row = made.row | {"evaluation": evaluation}
                record(row, made.inner_steps)

        def record_pending() -> None:
            nonlocal pending
            if pending is not None:
                record(*self._summarised(step, pending))
            pending = None

        def save() -> None:
            last = self._unjudged.row if self._unjudged else self._last
            skipped = last["skipped"] if last else 0
            self._save(state, step, books.sync(), skipped=skipped)

        if begin.unjudged is not None:
            first += begin.unjudged.inner_steps  # An earlier process made them.
            record_judged(state, begin.unjudged)
        while step < outer.steps and self._unjudged is None:
            self._watchdog.progress()
            dispatched, self._waited = time.monotonic(), 0.0
            due = time.monotonic() - saved >= self._config.checkpoint.seconds
            own = _Plan(stop=self._ended_by(), save=due)
            with self._waiting(), self._ledger.spending("waiting"):
                plan = _Plan(*self._peers.agree("plan", own))
            if plan.stop is not None:
                self._ended = plan.stop
                break
            # The device works on this dispatch while the host writes of the last.
            state, metrics = compiled(self._trainer, state)
            record_pending()
            step += outer.steps_per_dispatch
            if self._is_judged(step):
                record_judged(state, self._summarised(step, metrics))
            else:
                pending = metrics
            dispatches = step // outer.steps_per_dispatch
            if dispatches % self._config.faults.compare_every == 0:
                require_same(state.theta, step, self._peers, START_SECONDS)
            if plan.save or step == outer.steps:
                record_pending()
                save()
                saved, last_saved = time.monotonic(), step
            seconds = time.monotonic() - dispatched
            warning = self._stragglers.note(
                seconds - self._waited, seconds, START_SECONDS
            )
            if warning is not None:
                self._progress.line(warning)
        record_pending()
        if step > last_saved:
            save()
        return state, step

    def _summarised(self, step: int, metrics: OuterMetrics) -> _Made:
        with self._waiting():
            metrics = jax.device_get(metrics)
        made = int(np.sum(metrics.inner_steps, dtype=np.int64))
        return _Made(summarise(step, metrics, self._names), made)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def _is_judged(self, step: int) -> bool:
        validation = self._config.validation
        if not validation.suite:
            return False
        return step % validation.every == 0 or step == self._config.outer.steps

    def _judge(self, state: OuterState, step: int) -> dict[str, Any] | None:
        """Judges theta, and keeps it if it is the best so far.

        Returns:
            What was found; None if a signal came, which then ends the run.
        """

        def judge() -> dict[str, Any]:
            theta = self._theta(state)
            suite = suite_named(self._config.validation.suite)
            try:
                found = self._stop.unless_stopped(
                    lambda: score(self._trainer.lopt, theta, suite, self._stop.check)
                )
            except Interrupted as signal:
                return {"stopped_by": str(signal)}
            best = self._best
            if best is None or found < best.score:
                best = Best(score=found, step=step)
                self._write(self._directory.best, theta, step)
            return {"score": found, "best": best.score, "best_step": best.step}

        with (
            self._watchdog.phase("validation", None),
            self._ledger.spending("validation"),
            self._waiting(),
        ):
            evaluation = self._peers.by_first("validation", judge)
        if "stopped_by" in evaluation:
            self._ended = evaluation["stopped_by"]
            return None
        self._best = Best(evaluation["best"], evaluation["best_step"])
        return evaluation

    def _theta(self, state: OuterState) -> Any:
        """What the run has arrived at, on the host of this process alone."""
        theta, average = jax.device_get((state.theta, state.average))
        here = state._replace(theta=theta, average=average)
        return jax.device_get(self._trainer.result(here))

    def _save(
        self, state: OuterState, step: int, lengths: Lengths, *, skipped: int
    ) -> None:
        facts = {
            "skipped": skipped,
            "setback": self._setback._asdict(),
            "config_hash": config_hash(to_dict(self._config)),
            "lengths": lengths._asdict(),
            "seconds": self._elapsed(),
            "inner_steps": self._inner_steps,
            "best": self._best._asdict() if self._best else None,
            # As text: a manifest sorts its fields, and a row has an order.
            "unjudged": json.dumps(self._unjudged) if self._unjudged else None,
        }
        with (
            self._watchdog.phase("a checkpoint", START_SECONDS),
            self._ledger.spending("checkpoint"),
            self._waiting(),
        ):
            self._saver.save(state, step, facts, spared=self._good)
        if not skipped:
            self._good = step

    def _export(self, state: OuterState, step: int) -> None:
        """Writes the result as an optimizer that `l2o.load` reads."""
        if self._best is not None:
            _, theta = l2o.load(self._directory.best)
            # A killed process may have found a better one than this one knows of.
            step = read_manifest(self._directory.best)["outer_step"]
        else:
            theta = self._theta(state)
        self._write(self._directory.optimizer, theta, step)

    def _write(self, path: Any, theta: Any, step: int) -> None:
        config = self._config
        l2o.save(
            path,
            self._trainer.lopt,
            theta,
            overwrite=True,
            name=config.name,
            config=to_dict(config),
            seed=config.seed,
            outer_step=step,
            compute={
                "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
                "seconds": round(self._elapsed(), 1),
                "inner_steps": self._inner_steps,
            },
        )

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._began


def _facts(row: dict[str, Any], rate: float) -> dict[str, Any]:
    """What a person sees of a row, beside the table of families."""
    loss, norm = row["meta_loss"], row["gradient_norm"]
    facts = {
        "meta-loss": "not finite" if loss is None else f"{loss:.4f}",
        "gradient": "not finite" if norm is None else f"{norm:.3g}",
        "inner steps/s": f"{rate:,.0f}",
    }
    if row["non_finite"]:
        facts["non-finite"] = row["non_finite"]
    return facts
