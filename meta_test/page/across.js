// Charts over all cells: speedups with their intervals, and performance profiles.

const ROW = { name: 21, bar: 16, gap: 12 };

function drawSpeedup(figure) {
  const rows = report.across.contenders
    .map((one, index) => ({
      index,
      steps: readInterval(one.speedup),
      seconds: readInterval(one.wall_clock_speedup),
    }))
    .filter((row) => shown.has(row.index));
  const width = Math.max(figure.clientWidth, 240);
  const pitch = ROW.name + 2 * ROW.bar + ROW.gap;
  const bottom = rows.length * pitch + 4;
  const height = bottom + 38;
  const ends = rows.flatMap(({ steps, seconds }) => [...steps, ...seconds]);
  const known = [
    ...ends.filter((value) => Number.isFinite(value) && value > 0),
    0.8,
    1.25,
  ];
  const domain = [Math.min(...known) / 1.1, Math.max(...known) * 1.1];
  // On the right the numbers, on the left what a bar is of.
  const x = makeScale(domain, [58, width - 122], true);
  const drawing = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label":
      "Speedups of all optimizers; the table of all cells holds the numbers",
  });
  for (const tick of x.ticks) {
    const at = x(tick);
    drawing.append(svg("line", { class: "grid", x1: at, x2: at, y1: 0, y2: bottom }));
    const place = { x: at, y: bottom + 15, "text-anchor": "middle" };
    drawing.append(svg("text", place, format(tick)));
  }
  drawing.append(svg("line", { class: "axis", x1: x(1), x2: x(1), y1: 0, y2: bottom }));
  const below = {
    x: (x(domain[0]) + x(domain[1])) / 2,
    y: height - 6,
    "text-anchor": "middle",
  };
  drawing.append(svg("text", below, "slower ← speedup → faster"));
  rows.forEach(({ index, steps, seconds }, i) => {
    const top = i * pitch;
    const group = svg("g", { class: `c${index}`, "data-optimizer": names[index] });
    group.append(svg("text", { class: "name", x: 0, y: top + 14 }, names[index]));
    bar(group, x, "steps", steps, top + ROW.name, 1, width);
    bar(group, x, "seconds", seconds, top + ROW.name + ROW.bar, 0.45, width);
    drawing.append(group);
  });
  put(figure, drawing);
}

/** Low end, estimate and high end. */
function readInterval(speedup) {
  const interval = speedup ? speedup.interquartile_mean : {};
  return [interval.low, interval.estimate, interval.high].map(toNumber);
}

function bar(group, x, label, [low, estimate, high], top, opacity, width) {
  const middle = top + ROW.bar / 2;
  group.append(svg("text", { x: 52, y: middle + 4, "text-anchor": "end" }, label));
  const text = Number.isNaN(estimate)
    ? "-"
    : `${format(estimate)} [${format(low)}, ${format(high)}]`;
  group.append(svg("text", { x: width, y: middle + 4, "text-anchor": "end" }, text));
  if (Number.isNaN(estimate)) return;
  const [from, to] = [x(1), x(estimate)].sort((a, b) => a - b);
  group.append(
    svg("rect", {
      class: "bar",
      x: from,
      y: top + 1,
      // A speedup of 1 is a bar without a length, and is seen.
      width: Math.max(to - from, 2),
      height: ROW.bar - 2,
      "fill-opacity": opacity,
    }),
  );
  const [left, right] = [x(low), x(high)];
  const whisker = [[left, right, middle, middle]];
  for (const end of [left, right]) whisker.push([end, end, middle - 3, middle + 3]);
  for (const kind of ["halo", "whisker"]) {
    for (const [x1, x2, y1, y2] of whisker)
      group.append(svg("line", { class: kind, x1, x2, y1, y2 }));
  }
}

function drawProfile(figure) {
  const series = report.across.contenders
    .map((one, index) => ({ index, middle: one.profile }))
    .filter((one) => one.middle && shown.has(one.index));
  const { factors } = report.across;
  drawLines(figure, {
    label: "Performance profile; arrow keys read the values",
    height: 330,
    xs: factors,
    x: {
      low: factors[0],
      high: factors.at(-1),
      log: true,
      title: "times the fewest steps",
    },
    y: { low: 0, high: 1, log: false, title: "share of cells" },
    series,
    stairs: true,
    heading: (factor) => `within ${format(factor)} times the fewest steps`,
    value: (share) => `${Math.round(100 * share)} %`,
  });
}
