// A chart of lines over a shared axis, with bands, a cursor and a tooltip.

const MARGIN = { top: 10, right: 24, bottom: 38, left: 66 };

/**
 * Draws lines into a figure.
 *
 * @param figure the element; its drawing is replaced, its cursor starts anew.
 * @param chart
 *   label: what it shows, for those who do not see it.
 *   height: in pixels.
 *   xs: of all points, increasing. x, y: {low, high, log, title}.
 *   series: [{index, middle, low, high}], an optimizer each, numbers at `xs`;
 *     low and high, the ends of its band, may be left out.
 *   stairs: whether a value holds until the next.
 *   heading: of the tooltip, of an x.  value: text of a y.
 */
function drawLines(figure, chart) {
  const width = Math.max(figure.clientWidth, 240);
  const { height } = chart;
  const right = width - MARGIN.right;
  const bottom = height - MARGIN.bottom;
  const x = makeScale([chart.x.low, chart.x.high], [MARGIN.left, right], chart.x.log);
  const y = makeScale([chart.y.low, chart.y.high], [bottom, MARGIN.top], chart.y.log);

  const drawing = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    tabindex: 0,
    "aria-label": chart.label,
  });
  drawing.append(...axes(x, y, chart, width, height));
  const series = [...chart.series].sort(inFront);
  for (const one of series) drawing.append(line(one, chart, x, y));
  const cursor = svg("g");
  drawing.append(cursor);
  put(figure, drawing);
  follow(figure, drawing, cursor, { ...chart, series }, x, y);
}

function axes(x, y, chart, width, height) {
  const bottom = height - MARGIN.bottom;
  const right = width - MARGIN.right;
  const parts = [];
  for (const tick of y.ticks) {
    const at = y(tick);
    parts.push(
      svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: at, y2: at }),
    );
    const place = { x: MARGIN.left - 7, y: at + 4, "text-anchor": "end" };
    parts.push(svg("text", place, chart.value(tick)));
  }
  // Numbers side by side need room.
  const room = Math.max(2, Math.floor((right - MARGIN.left) / 58));
  const stride = Math.ceil(x.ticks.length / room);
  x.ticks.forEach((tick, i) => {
    if (i % stride) return;
    const at = x(tick);
    parts.push(
      svg("line", { class: "axis", x1: at, x2: at, y1: bottom, y2: bottom + 4 }),
    );
    const place = { x: at, y: bottom + 17, "text-anchor": "middle" };
    parts.push(svg("text", place, format(tick)));
  });
  parts.push(
    svg("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }),
  );
  const middle = (MARGIN.left + right) / 2;
  const below = { x: middle, y: height - 5, "text-anchor": "middle" };
  parts.push(svg("text", below, chart.x.title));
  const aside = {
    transform: `translate(11 ${bottom / 2}) rotate(-90)`,
    "text-anchor": "middle",
  };
  parts.push(svg("text", aside, chart.y.title));
  return parts;
}

function line({ index, middle, low, high }, chart, x, y) {
  const group = svg("g", { class: `c${index}`, "data-optimizer": names[index] });
  if (low && high) {
    const along = (values) => chart.xs.map((at, i) => `${x(at)} ${y(values[i])}`);
    const d = `M${[...along(low), ...along(high).reverse()].join("L")}Z`;
    group.append(
      svg("path", { class: "band", d, "fill-opacity": strokes[index].band }),
    );
  }
  const points = chart.xs.map((at, i) =>
    chart.stairs && i
      ? `H${x(at)}V${y(middle[i])}`
      : `${i ? "L" : "M"}${x(at)} ${y(middle[i])}`,
  );
  group.append(svg("path", { class: "line", d: points.join(""), ...stroked(index) }));
  return group;
}

/** Lets pointer and arrow keys move a cursor, which shows the values of all lines. */
function follow(figure, drawing, cursor, chart, x, y) {
  const tooltip =
    figure.querySelector(".tooltip") ??
    element("div", { class: "tooltip", role: "status" });
  figure.append(tooltip);
  let current = null;
  const scale = () => drawing.clientWidth / drawing.viewBox.baseVal.width;

  function move(index) {
    current = index;
    const at = x(chart.xs[index]);
    const marks = {
      class: "axis",
      x1: at,
      x2: at,
      y1: y(chart.y.high),
      y2: y(chart.y.low),
    };
    const dots = chart.series.map((one) =>
      svg("circle", {
        class: `dot c${one.index}`,
        cx: at,
        cy: y(one.middle[index]),
        r: 4,
      }),
    );
    cursor.replaceChildren(svg("line", marks), ...dots);
    // In the order in which the lines are met from above.
    const ordered = [...chart.series].sort(
      // Not by their difference: that of infinities is no number.
      ({ middle: a }, { middle: b }) => (a[index] < b[index]) - (a[index] > b[index]),
    );
    tooltip.replaceChildren(
      element("strong", {}, chart.heading(chart.xs[index])),
      ...ordered.map((one) =>
        element(
          "div",
          {},
          element("span", { class: `swatch c${one.index}` }),
          element("span", { class: "who" }, names[one.index]),
          element("span", { class: "value" }, chart.value(one.middle[index])),
        ),
      ),
    );
    place(at * scale());
  }

  /** Beside the cursor; where neither side has room, below the drawing. */
  function place(at) {
    const room = figure.clientWidth - tooltip.offsetWidth;
    const [after, before] = [at + 14, at - 14 - tooltip.offsetWidth];
    const beside = after <= room ? after : before;
    tooltip.style.left = `${clamp(beside, 0, Math.max(room, 0))}px`;
    tooltip.style.top = beside < 0 ? `${drawing.clientHeight}px` : "0";
  }

  function leave() {
    current = null;
    cursor.replaceChildren();
    tooltip.replaceChildren();
  }

  function nearest(event) {
    const box = drawing.getBoundingClientRect();
    const at = (event.clientX - box.left) / scale();
    const away = chart.xs.map((value) => Math.abs(x(value) - at));
    return away.indexOf(Math.min(...away));
  }

  leave();
  drawing.addEventListener("pointermove", (event) => move(nearest(event)));
  drawing.addEventListener("pointerdown", (event) => move(nearest(event)));
  drawing.addEventListener("pointerleave", leave);
  drawing.addEventListener("blur", leave);
  drawing.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") leave();
    if (!by) return;
    event.preventDefault();
    const last = chart.xs.length - 1;
    move(current === null ? (by > 0 ? 0 : last) : clamp(current + by, 0, last));
  });
}
