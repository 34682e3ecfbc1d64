"""The run loop: dispatch, record, save, stop in good order."""

import dataclasses
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import jax
import numpy as np

import l2o
from l2o.config import config_hash, to_dict
from meta_test.compilation import compiler_options
from meta_test.suites import suite_named
from meta_train.build import block_mesh, state_sharding, warm_start
from meta_train.config import TrainConfig
from meta_train.directory import Restored, RunDirectory
from meta_train.metrics import JsonLines, Log, TensorBoard, WandB, summarise
from meta_train.outer import OuterMetrics, OuterState, OuterTrainer
from meta_train.progress import Progress
from meta_train.signals import StopSignal
from meta_train.validation import Best, score


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        step: outer steps made.
        finished: whether that is all of them.
        stopped_by: name of the signal that stopped it, or `budget`, else None.
        last: the last row of metrics of this process, None when it made no step.
        seconds: spent in the loop, over all processes of the run.
        inner_steps: made over all processes of the run.
    """

    step: int
    finished: bool
    stopped_by: str | None
    last: dict[str, Any] | None
    seconds: float
    inner_steps: int


BUDGET = "budget"
"""What `RunResult.stopped_by` says when the time was over."""


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

    Returns:
        How it ended.

    Raises:
        ValueError: there is a run and it is not to be resumed, or has another config.
        CheckpointError: there are checkpoints to resume from and none is good.
        NonFiniteError: no particle had a finite loss for `outer.max_skipped` steps.
        OSError: the directory cannot be written; older checkpoints are intact.
    """
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
    if resume and not directory.steps():
        progress.line("no checkpoint to resume from, beginning at zero")
    return _Loop(config, trainer, directory, stop, progress, deadline).run()


class _Lengths(NamedTuple):
    """Bytes of the files of lines at the moment of a checkpoint."""

    metrics: int
    timing: int


class _Begin(NamedTuple):
    """Where a process takes up the run."""

    state: OuterState
    step: int
    lengths: _Lengths


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
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._directory = directory
        self._stop = stop
        self._progress = progress
        self._deadline = deadline
        self._names = trainer.mix.names
        self._seconds = 0.0  # of the processes before this one
        self._inner_steps = 0  # of all processes
        self._best: Best | None = None
        self._began = time.monotonic()
        self._last: dict[str, Any] | None = None

    def run(self) -> RunResult:
        steps = self._config.outer.steps
        key = jax.random.key(self._config.seed)
        shapes = jax.eval_shape(lambda trainer: trainer.init(key), self._trainer)
        sharding = state_sharding(block_mesh(self._config.estimator), shapes)
        restored = self._directory.restore(shapes)
        step = 0 if restored is None else restored.step
        # A signal that came before compilation is not kept waiting for it.
        wanted = step < steps and self._ended_by() is None
        with ThreadPoolExecutor(1) as background:
            # Files are read and written, and a first state is made, meanwhile.
            compiled = (
                background.submit(self._compile, shapes, sharding) if wanted else None
            )
            if restored is None:
                begin = self._new(jax.device_put(self._drawn(key), sharding))
            else:
                begin = self._taken_up(restored, sharding)
            state = begin.state
            if compiled is not None:
                state, step = self._train(begin, compiled)
        finished = step == steps
        if finished or self._ended_by() == BUDGET:
            self._export(state, step)
        return RunResult(
            step=step,
            finished=finished,
            stopped_by=None if finished else self._ended_by(),
            last=self._last,
            seconds=self._elapsed(),
            inner_steps=self._inner_steps,
        )

    def _ended_by(self) -> str | None:
        """What says that it is time to stop: the name of a signal, or the budget."""
        if self._stop.received is not None:
            return self._stop.received
        over = self._deadline is not None and time.monotonic() >= self._deadline
        return BUDGET if over else None

    def _drawn(self, key: jax.Array) -> OuterState:
        source, lopt = self._config.warm_start, self._trainer.lopt
        patterns = self._config.warm_start_tensors
        taken = warm_start(source, lopt, patterns) if source else {}
        return jax.jit(lambda trainer: trainer.init(key, taken))(self._trainer)

    def _compile(self, shapes: OuterState, sharding: OuterState) -> Any:
        self._progress.line(f"compiling, {len(jax.devices())} devices")
        placed = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            sharding,
        )
        dispatch = jax.jit(
            lambda trainer, state: trainer.dispatch(state), donate_argnums=1
        )
        return dispatch.lower(self._trainer, placed).compile(compiler_options())

    def _new(self, state: OuterState) -> _Begin:
        lengths = _Lengths(metrics=0, timing=0)
        # The first save comes before the first step: a directory that cannot hold a
        # checkpoint is found out at once.
        self._save(state, 0, lengths)
        return _Begin(state, 0, lengths)

    def _taken_up(self, restored: Restored, sharding: OuterState) -> _Begin:
        for line in restored.damaged:
            self._progress.line(
                f"warning: a damaged checkpoint was set aside, resuming from outer "
                f"step {restored.step}: {line}"
            )
        facts = restored.facts
        self._seconds = facts["seconds"]
        self._inner_steps = facts["inner_steps"]
        self._best = Best(**facts["best"]) if facts["best"] else None
        state = jax.device_put(restored.state, sharding)
        return _Begin(state, restored.step, _Lengths(**facts["lengths"]))

    def _train(self, begin: _Begin, compiled: Future[Any]) -> tuple[OuterState, int]:
        directory, config = self._directory, self._config
        with ExitStack() as stack:
            metrics, timing = (
                stack.enter_context(closing(JsonLines(path, length)))
                for path, length in (
                    (directory.metrics, begin.lengths.metrics),
                    (directory.timing, begin.lengths.timing),
                )
            )
            others: list[Log] = [TensorBoard(directory.tensorboard, begin.step)]
            if config.log.wandb:
                others.append(WandB(config.log.wandb, config.name, to_dict(config)))
            for log in others:
                stack.enter_context(closing(log))
            return self._steps(begin, compiled.result(), metrics, timing, others)

    def _steps(
        self,
        begin: _Begin,
        compiled: Any,
        metrics_file: JsonLines,
        timing_file: JsonLines,
        others: list[Log],
    ) -> tuple[OuterState, int]:
        outer, state, step = self._config.outer, begin.state, begin.step
        self._began = saved = time.monotonic()
        first = self._inner_steps
        judging = 0.0  # seconds that went into validation
        pending: OuterMetrics | None = None

        def record(
            metrics: Any, step: int, evaluation: dict[str, Any] | None = None
        ) -> None:
            metrics = jax.device_get(metrics)
            row = summarise(step, metrics, self._names)
            if evaluation is not None:
                row["evaluation"] = evaluation
            self._inner_steps += int(np.sum(metrics.inner_steps, dtype=np.int64))
            spent = time.monotonic() - self._began - judging
            rate = (self._inner_steps - first) / spent
            metrics_file.append(row)
            for log in others:
                log.append({**row, "inner_steps_per_second": rate})
            timing_file.append(
                {
                    "step": step,
                    "seconds": self._elapsed(),
                    "inner_steps_per_second": rate,
                }
            )
            self._last = row
            facts = _facts(row, rate)
            if self._best is not None:
                facts["best validation"] = f"{self._best.score:.3f}"
            self._progress.update(step, outer.steps, facts, table=row["families"])
            if row["skipped"] >= outer.max_skipped:
                raise NonFiniteError(
                    "the meta-loss must be finite, no particle had a finite one in the "
                    f"{row['skipped']} outer steps up to {step}: lower "
                    "estimator.sigma or outer.learning_rate"
                )

        def save(step: int) -> None:
            for log in others:
                log.sync()
            lengths = _Lengths(metrics=metrics_file.sync(), timing=timing_file.sync())
            self._save(state, step, lengths)

        while step < outer.steps and self._ended_by() is None:
            # The device works on this dispatch while the host writes of the last.
            state, metrics = compiled(self._trainer, state)
            if pending is not None:
                record(pending, step)
            pending, step = metrics, step + outer.steps_per_dispatch
            if self._is_judged(step):
                jax.block_until_ready(state)
                began = time.monotonic()
                evaluation = self._judge(state, step)
                judging += time.monotonic() - began
                record(metrics, step, evaluation)
                pending = None
            due = time.monotonic() - saved >= self._config.checkpoint.seconds
            if due or step == outer.steps:
                if pending is not None:
                    record(pending, step)
                save(step)
                pending, saved = None, time.monotonic()
        if pending is not None:
            record(pending, step)
        if step > begin.step and step not in self._directory.steps():
            save(step)
        return state, step

    def _is_judged(self, step: int) -> bool:
        validation = self._config.validation
        if not validation.suite:
            return False
        return step % validation.every == 0 or step == self._config.outer.steps

    def _judge(self, state: OuterState, step: int) -> dict[str, Any]:
        """Judges theta, and keeps it if it is the best so far."""
        theta = jax.device_get(self._trainer.result(state))
        suite = suite_named(self._config.validation.suite)
        found = score(self._trainer.lopt, theta, suite)
        if self._best is None or found < self._best.score:
            self._best = Best(score=found, step=step)
            self._write(self._directory.best, theta, step)
        return {
            "score": found,
            "best": self._best.score,
            "best_step": self._best.step,
        }

    def _save(self, state: OuterState, step: int, lengths: _Lengths) -> None:
        facts = {
            "config_hash": config_hash(to_dict(self._config)),
            "lengths": lengths._asdict(),
            "seconds": self._elapsed(),
            "inner_steps": self._inner_steps,
            "best": self._best._asdict() if self._best else None,
        }
        self._directory.save(state, step, facts, self._config.checkpoint.keep)

    def _export(self, state: OuterState, step: int) -> None:
        """Writes the result as an optimizer that `l2o.load` reads."""
        if self._best is not None:
            _, theta = l2o.load(self._directory.best)
            step = self._best.step
        else:
            theta = jax.device_get(self._trainer.result(state))
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
