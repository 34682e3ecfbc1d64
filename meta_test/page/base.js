"use strict";

// What all charts share: the report, which optimizers are shown, and small helpers.

const report = JSON.parse(document.getElementById("report").textContent);
const strokes = JSON.parse(document.getElementById("strokes").textContent);
const names = report.contenders.map((contender) => contender.name);
/** Indices of the optimizers that charts show. */
const shown = new Set(names.keys());

const DASHES = { "-": "none", "--": "6 4", "-.": "7 3 2 3", ":": "2 3" };

/** A number of the report: JSON has no infinity, and null is none. */
function toNumber(value) {
  if (value === null || value === undefined) return NaN;
  if (value === "inf") return Infinity;
  if (value === "-inf") return -Infinity;
  return Number(value);
}

/** Three digits, written as in the tables. */
function format(value) {
  if (Number.isNaN(value)) return "-";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) {
    const [digits, exponent] = value.toExponential(2).split("e");
    const power = Math.abs(exponent).toString().padStart(2, "0");
    return `${Number(digits)}e${exponent < 0 ? "-" : "+"}${power}`;
  }
  const rounded = Number(value.toPrecision(3));
  return rounded.toLocaleString("en", { maximumSignificantDigits: 6 });
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/** Median and quartiles, by linear interpolation as in the report. */
function quartiles(values) {
  const ordered = values
    .map((v) => (Number.isNaN(v) ? Infinity : v))
    .sort((a, b) => a - b);
  return [0.25, 0.5, 0.75].map((fraction) => {
    const position = fraction * (ordered.length - 1);
    const below = ordered[Math.floor(position)];
    const above = ordered[Math.ceil(position)];
    // Infinity minus itself is no number.
    return below === above ? below : below + (position % 1) * (above - below);
  });
}

/** An element of HTML; children are elements or text. */
function element(name, attributes = {}, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

/** An element of SVG. */
function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  return furnish(made, attributes, children);
}

function furnish(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The figure's drawing, in the place of the one before. */
function put(figure, drawing) {
  const before = figure.querySelector(":scope > svg");
  if (before) before.replaceWith(drawing);
  else figure.prepend(drawing);
}

/** The stroke of an optimizer, as attributes. */
function stroked(index) {
  const { dashes, width } = strokes[index];
  return { "stroke-width": width, "stroke-dasharray": DASHES[dashes] };
}

/** Heavy lines, those of learned optimizers, are drawn last: in front. */
function inFront(a, b) {
  return strokes[a.index].width - strokes[b.index].width;
}

/** A function from numbers to pixels, and where its axis has ticks. */
function makeScale([low, high], [from, to], logarithmic) {
  const warp = logarithmic ? Math.log10 : (value) => value;
  const span = warp(high) - warp(low) || 1;
  const scale = (value) =>
    from + ((warp(clamp(value, low, high)) - warp(low)) / span) * (to - from);
  scale.low = low;
  scale.high = high;
  scale.ticks = logarithmic ? logTicks(low, high) : linearTicks(low, high);
  return scale;
}

function linearTicks(low, high) {
  const rough = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step =
    power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => (first + i) * step);
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const factors = decades > 2.5 ? [1] : decades > 1.2 ? [1, 3] : [1, 1.5, 2, 3, 5, 7];
  const stride = Math.ceil(decades / 6);
  const ticks = [];
  for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k += 1) {
    if (k % stride !== 0) continue;
    for (const factor of factors) {
      // From digits: the product of powers has others at its end.
      const tick = Number(`${factor}e${k}`);
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks;
}
