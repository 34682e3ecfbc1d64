// The curves of a cell.

/** Losses below this share of the initial one are off the chart: they are all zero. */
const DEPTH = 1e-8;

const TITLES = {
  curve: "train loss while training",
  train_loss: "train loss",
  valid_loss: "validation loss",
  test_loss: "test loss",
};

/** What is drawn of an optimizer: losses from step 0 on. */
function readCurve(row, kind) {
  const split = kind === "curve" ? "train_loss" : kind;
  // Training and unseen data have their own choice of the learning rate.
  const chosen = split === "train_loss" ? row.fitted : row.validated;
  const bands = kind === "curve" ? chosen.curve : chosen.evaluations[split];
  const steps = kind === "curve" ? bands.steps : chosen.evaluations.steps;
  const initial = quartiles(chosen.per_seed.initial[split].map(toNumber));
  const from = (name, i) => [
    initial[i],
    // What a training did not reach counts as infinite.
    ...bands[name].map((value) => (value === null ? Infinity : toNumber(value))),
  ];
  return {
    index: names.indexOf(row.contender),
    xs: [0, ...steps],
    low: from("q25", 0),
    middle: from("median", 1),
    high: from("q75", 2),
    diverged: chosen.diverged,
    seeds: row.seeds,
  };
}

/** Logarithmic where no loss is negative; what is infinite is above it. */
function lossAxis(series, title) {
  const finite = series.flatMap((one) => one.middle).filter(Number.isFinite);
  const starts = series.map((one) => one.middle[0]).filter(Number.isFinite);
  const start = starts.length ? Math.max(...starts) : 1;
  const least = Math.min(start, ...finite);
  const most = Math.max(start, ...finite);
  const positive = finite.filter((value) => value > 0);
  if (start > 0 && least >= 0 && positive.length) {
    const low = Math.max(Math.min(...positive) / 1.6, start * DEPTH);
    // Losses may rise, as on validation data, but an explosion must not fill the axis.
    const high = clamp(1.2 * most, 2 * start, 20 * start);
    return { low, high, log: true, title };
  }
  const span = Math.max(start - least, Math.abs(start), Number.MIN_VALUE);
  const high = Math.min(most, start + span);
  const margin = 0.05 * (high - least || span);
  return { low: least - margin, high: high + margin, log: false, title };
}

function drawCurves(figure, kind) {
  const cell = report.suite.cells[Number(figure.dataset.cell)];
  const series = report.rows
    .filter((row) => row.cell === cell.name)
    .map((row) => readCurve(row, kind))
    .filter((one) => shown.has(one.index));
  const title = TITLES[kind];
  drawLines(figure, {
    label: `${title} against steps on ${cell.name}; arrow keys read the values`,
    height: 270,
    xs: series.length ? series[0].xs : [0, cell.horizon],
    x: { low: 0, high: cell.horizon, log: false, title: "step" },
    y: lossAxis(series, title),
    series,
    heading: (step) => `step ${step.toLocaleString("en")}`,
    value: format,
  });
  const failed = series
    .filter((one) => one.diverged)
    .map((one) => `${names[one.index]} ${one.diverged}/${one.seeds} diverged`);
  const note = figure.querySelector(".failed") ?? element("p", { class: "failed" });
  note.textContent = failed.join(", ");
  figure.append(note);
}
