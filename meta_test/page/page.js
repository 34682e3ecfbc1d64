// What a person can do: hide optimizers, choose a loss, sort tables, save the report.

const legend = document.querySelector(".legend");
names.forEach((name, index) => {
  const swatch = svg(
    "svg",
    { class: `c${index}`, width: 26, height: 10, "aria-hidden": "true" },
    svg("line", { class: "line", x1: 0, x2: 26, y1: 5, y2: 5, ...stroked(index) }),
  );
  const button = element(
    "button",
    { type: "button", "aria-pressed": "true", title: name },
    swatch,
    element("span", {}, name),
  );
  button.addEventListener("click", () => {
    if (!shown.delete(index)) shown.add(index);
    button.setAttribute("aria-pressed", String(shown.has(index)));
    draw();
  });
  legend.append(button);
});

function draw() {
  const loss = document.querySelector("input[name=loss]:checked").value;
  const kinds = {
    training: (figure) => drawCurves(figure, "curve"),
    evaluations: (figure) => drawCurves(figure, loss),
    speedup: drawSpeedup,
    profile: drawProfile,
    radar: drawRadar,
  };
  for (const figure of document.querySelectorAll(".chart"))
    kinds[figure.dataset.chart](figure);
  // What a link leads to is not under the controls, however many lines they take.
  const { offsetHeight } = document.querySelector(".controls");
  document.documentElement.style.scrollPaddingTop = `${offsetHeight + 16}px`;
}

for (const input of document.querySelectorAll("input[name=loss]")) {
  input.addEventListener("change", draw);
}

/** Sorts by a column; what has no value stays at the end. */
function sort(table, head) {
  const { best } = head.dataset;
  const first = best === "high" ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const value = (row) => {
    const cell = row.cells[head.cellIndex];
    if (!best) return cell.textContent;
    // An empty text is the number 0 to JavaScript.
    return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
  };
  const compare = (a, b) => {
    if (!best) return sign * a.localeCompare(b, "en", { numeric: true });
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a === b ? 0 : sign * (a < b ? -1 : 1);
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
}

for (const table of document.querySelectorAll("table")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = element("button", { type: "button" }, head.textContent);
    button.addEventListener("click", () => sort(table, head));
    head.replaceChildren(button);
  }
}

document.getElementById("download").addEventListener("click", () => {
  const text = document.getElementById("report").textContent;
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href: url, download: "report.json" }).click();
  URL.revokeObjectURL(url);
});

// Charts are drawn for the width that they have.
let width = document.body.clientWidth;
addEventListener("resize", () => {
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  draw();
});

// On paper nothing can be unfolded.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    addEventListener(
      "afterprint",
      () => {
        details.open = false;
      },
      { once: true },
    );
  }
});

draw();
