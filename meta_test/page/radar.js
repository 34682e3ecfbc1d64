// Report cards: an axis a wish, an outline an optimizer.

function drawRadar(figure) {
  const cards = report.cards.filter((card) => shown.has(names.indexOf(card.contender)));
  const wishes = [
    ...new Set(report.cards.flatMap((card) => card.wishes.map((w) => w.name))),
  ];
  const width = Math.max(Math.min(figure.clientWidth, 640), 240);
  const radius = Math.min(150, width / 2 - 86);
  const height = 2 * radius + 76;
  const center = { x: width / 2, y: height / 2 };
  const place = (axis, share) => {
    const angle = (2 * Math.PI * axis) / wishes.length - Math.PI / 2;
    return {
      x: center.x + share * radius * Math.cos(angle),
      y: center.y + share * radius * Math.sin(angle),
    };
  };
  const outline = (share) =>
    wishes.map((_, i) => place(i, share)).map(({ x, y }) => `${x} ${y}`);
  const drawing = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": "Report cards of all optimizers; the table below holds the scores",
  });
  drawing.style.maxWidth = `${width}px`;
  for (const share of [0.25, 0.5, 0.75, 1]) {
    drawing.append(
      svg("polygon", { class: "grid", fill: "none", points: outline(share).join(" ") }),
    );
  }
  wishes.forEach((wish, i) => {
    const rim = place(i, 1);
    drawing.append(
      svg("line", { class: "grid", x1: center.x, y1: center.y, x2: rim.x, y2: rim.y }),
    );
    const { x, y } = place(i, 1 + 14 / radius);
    const side = Math.abs(x - center.x) < 8 ? "middle" : x > center.x ? "start" : "end";
    drawing.append(wrapped(wish, x, y, side));
  });
  const series = cards.map((card) => ({ index: names.indexOf(card.contender), card }));
  for (const { index, card } of series.sort(inFront)) {
    const scores = wishes.map((name) => {
      const wish = card.wishes.find((one) => one.name === name);
      return wish ? toNumber(wish.score) : NaN;
    });
    drawing.append(scored(index, scores, place));
  }
  put(figure, drawing);
}

/** The outline has a gap where a wish has no score: nothing is not the worst. */
function scored(index, scores, place) {
  const group = svg("g", { class: `c${index}`, "data-optimizer": names[index] });
  const points = scores.map((score, i) =>
    Number.isNaN(score) ? null : place(i, clamp(score, 0, 1)),
  );
  const known = points.every(Boolean);
  if (known) {
    const d = `M${points.map(({ x, y }) => `${x} ${y}`).join("L")}Z`;
    group.append(
      svg("path", { class: "area", d, "fill-opacity": strokes[index].band / 2 }),
    );
  }
  points.forEach((point, i) => {
    const next = points[(i + 1) % points.length];
    if (point && next) {
      const ends = { x1: point.x, y1: point.y, x2: next.x, y2: next.y };
      group.append(svg("line", { class: "line", ...ends, ...stroked(index) }));
    }
    if (point)
      group.append(svg("circle", { class: "dot", cx: point.x, cy: point.y, r: 3.5 }));
  });
  return group;
}

/** Words below one another where a name is long: there is little room at the sides. */
function wrapped(text, x, y, anchor) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (longer.length > 12 && lines.at(-1)) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  const label = svg("text", { class: "name", "text-anchor": anchor });
  lines.forEach((words, i) => {
    const offset = (i - (lines.length - 1) / 2) * 14 + 4;
    label.append(svg("tspan", { x, y: y + offset }, words));
  });
  return label;
}
