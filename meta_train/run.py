"""The run loop: dispatch, record, save, stop in good order."""

import dataclasses
import time
from contextlib import closing
from typing import Any, NamedTuple

import jax

import l2o
from l2o.config import config_hash, to_dict
from l2o.learned.base import unflatten
from meta_train.build import block_mesh, state_sharding
from meta_train.config import TrainConfig
from meta_train.devices import compiler_options
from meta_train.directory import RunDirectory
from meta_train.metrics import JsonLines, TensorBoard, summarise
from meta_train.outer import OuterMetrics, OuterState, OuterTrainer
from meta_train.progress import Progress
from meta_train.signals import StopSignal


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        step: outer steps made.
        finished: whether that is all of them.
        stopped_by: name of the signal that stopped it, else None.
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
) -> RunResult:
    """Meta-trains until the end or a signal, and writes the optimizer at the end.

    What it writes depends on the config and the code alone, not on where it was
    interrupted: theta and `metrics.jsonl` come out bit for bit the same.

    Args:
        config: what to do.
        trainer: built from it.
        directory: where; locked by the caller.
        resume: continue the run that is there, if there is one.
        stop: noted signals; asked between dispatches.
        progress: where to report.

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
    return _Loop(config, trainer, directory, stop, progress).run()


class _Lengths(NamedTuple):
    """Bytes of the files of lines at the moment of a checkpoint."""

    metrics: int
    timing: int


class _Loop:
    """The state of `run`."""

    def __init__(
        self,
        config: TrainConfig,
        trainer: OuterTrainer,
        directory: RunDirectory,
        stop: StopSignal,
        progress: Progress,
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._directory = directory
        self._stop = stop
        self._progress = progress
        self._seconds = 0.0  # of the processes before this one
        self._began = time.monotonic()
        self._last: dict[str, Any] | None = None

    def run(self) -> RunResult:
        state, step, lengths = self._initial()
        steps = self._config.outer.steps
        # Compilation may be long: a signal that came before it is not kept waiting.
        if step < steps and self._stop.received is None:
            state, step = self._train(state, step, lengths)
        finished = step == steps
        if finished:
            self._export(state)
        return RunResult(
            step=step,
            finished=finished,
            stopped_by=None if finished else self._stop.received,
            last=self._last,
            seconds=self._elapsed(),
            inner_steps=self._inner_steps(step),
        )

    def _initial(self) -> tuple[OuterState, int, _Lengths]:
        """The state to begin with, its outer step, and the lengths of its files."""
        init = jax.jit(lambda trainer, key: trainer.init(key))
        key = jax.random.key(self._config.seed)
        like = jax.eval_shape(init, self._trainer, key)
        sharding = state_sharding(block_mesh(self._config.estimator), like)
        restored = self._directory.restore(like)
        if restored is not None:
            for line in restored.damaged:
                self._progress.line(
                    f"warning: a damaged checkpoint was set aside, resuming from outer "
                    f"step {restored.step}: {line}"
                )
            self._seconds = restored.facts["seconds"]
            state = jax.device_put(restored.state, sharding)
            return state, restored.step, _Lengths(**restored.facts["lengths"])
        lengths = _Lengths(metrics=0, timing=0)
        state = jax.device_put(init(self._trainer, key), sharding)
        # The first save comes before the first compilation: a directory that cannot
        # hold a checkpoint is found out at once.
        self._save(state, 0, lengths)
        return state, 0, lengths

    def _train(
        self, state: OuterState, step: int, lengths: _Lengths
    ) -> tuple[OuterState, int]:
        directory = self._directory
        with (
            closing(JsonLines(directory.metrics, lengths.metrics)) as metrics,
            closing(JsonLines(directory.timing, lengths.timing)) as timing,
            closing(TensorBoard(directory.tensorboard, step)) as tensorboard,
        ):
            return self._steps(state, step, metrics, timing, tensorboard)

    def _steps(
        self,
        state: OuterState,
        step: int,
        metrics_file: JsonLines,
        timing_file: JsonLines,
        tensorboard: TensorBoard,
    ) -> tuple[OuterState, int]:
        outer = self._config.outer
        dispatch = jax.jit(
            lambda trainer, state: trainer.dispatch(state), donate_argnums=1
        )
        self._progress.line(f"compiling, {len(jax.devices())} devices")
        compiled = dispatch.lower(self._trainer, state).compile(compiler_options())
        self._began, first, saved = time.monotonic(), step, time.monotonic()
        pending: OuterMetrics | None = None

        def record(metrics: OuterMetrics, step: int) -> None:
            row = summarise(step, jax.device_get(metrics))
            rate = self._inner_steps(step - first) / (time.monotonic() - self._began)
            metrics_file.append(row)
            tensorboard.append({**row, "inner_steps_per_second": rate})
            timing_file.append(
                {
                    "step": step,
                    "seconds": self._elapsed(),
                    "inner_steps_per_second": rate,
                }
            )
            self._last = row
            loss = row["meta_loss"]
            facts = {
                "meta-loss": "not finite" if loss is None else f"{loss:.4f}",
                "inner steps/s": f"{rate:,.0f}",
            }
            if row["non_finite"]:
                facts["non-finite"] = row["non_finite"]
            self._progress.update(step, outer.steps, facts)
            if row["skipped"] >= outer.max_skipped:
                raise NonFiniteError(
                    "the meta-loss must be finite, no particle had a finite one in the "
                    f"{row['skipped']} outer steps up to {step}: lower "
                    "estimator.sigma or outer.learning_rate"
                )

        def save(metrics: OuterMetrics, step: int) -> None:
            record(metrics, step)
            tensorboard.sync()
            lengths = _Lengths(metrics=metrics_file.sync(), timing=timing_file.sync())
            self._save(state, step, lengths)

        while step < outer.steps and self._stop.received is None:
            # The device works on this dispatch while the host writes of the last.
            state, metrics = compiled(self._trainer, state)
            if pending is not None:
                record(pending, step)
            pending, step = metrics, step + outer.steps_per_dispatch
            due = time.monotonic() - saved >= self._config.checkpoint.seconds
            if due or step == outer.steps:
                save(metrics, step)
                pending, saved = None, time.monotonic()
        if pending is not None:
            save(pending, step)
        return state, step

    def _save(self, state: OuterState, step: int, lengths: _Lengths) -> None:
        facts = {
            "config_hash": config_hash(to_dict(self._config)),
            "lengths": lengths._asdict(),
            "seconds": self._elapsed(),
        }
        self._directory.save(state, step, facts, self._config.checkpoint.keep)

    def _export(self, state: OuterState) -> None:
        """Writes the result as an optimizer that `l2o.load` reads."""
        config = self._config
        l2o.save(
            self._directory.optimizer,
            self._trainer.lopt,
            unflatten(self._trainer.lopt, jax.device_get(state.theta)),
            overwrite=True,
            name=config.name,
            config=to_dict(config),
            seed=config.seed,
            compute={
                "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
                "seconds": round(self._elapsed(), 1),
                "inner_steps": self._inner_steps(config.outer.steps),
            },
        )

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._began

    def _inner_steps(self, outer_steps: int) -> int:
        estimator = self._config.estimator
        return outer_steps * 2 * estimator.pairs * estimator.window
