
"use strict";
const $ = (id) => document.getElementById(id);
const SPAN_S = 180;
const HEIGHT = 66;

const number = (value, digits = 0) => value.toLocaleString("en", {maximumFractionDigits: digits, minimumFractionDigits: digits});
const percent = (value) => `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %`;
const big = (count) => count >= 1e9 ? `${(count / 1e9).toFixed(1)} B` : count >= 1e6 ? `${number(count / 1e6, count >= 1e7 ? 0 : 1)} M` : number(count);
const seconds = (value) => {
  if (value === null || value === undefined) return "–";
  if (value < 0.0995) return `${number(1e3 * value, value < 0.00995 ? 1 : 0)} ms`;
  return value < 0.9995 ? `${number(1e3 * value)} ms` : value < 99.5 ? `${number(value, value < 9.95 ? 2 : 1)} s` : `${number(value)} s`;
};

function element(tag, values = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, values);
  made.append(...children);
  return made;
}

function drawn(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// The next of 1, 2, 5, 10, 20 … so that the scale does not jump with every sample.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

// Each line is [field, class]. A point without a value leaves a gap.
class Chart {
  constructor(title, svg, lines, {least, label}) {
    [this.svg, this.lines, this.least, this.label] = [svg, lines, least, label];
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${title} over the last 3 minutes`);
  }

  // `most` is the scale's upper end; without one it follows the points.
  draw(points, most, cursor) {
    const width = this.svg.clientWidth || 240;
    const now = points.length ? points[points.length - 1].time_s : 0;
    const values = this.lines.flatMap(([field]) => points.map((point) => point[field]).filter((value) => value !== null));
    const top = most ?? ceiling(Math.max(this.least, ...values));
    const x = (point) => width * (1 - (now - point.time_s) / SPAN_S);
    const y = (value) => HEIGHT * (1 - value / top);
    const across = (height, name) => drawn("line", {x1: 0, x2: width, y1: height, y2: height, class: name});
    const shapes = [across(0.5, "grid"), across(HEIGHT / 2, "grid"), across(HEIGHT - 0.5, "base")];
    for (const [field, name] of this.lines) {
      const runs = [];
      let run = null;
      for (const point of points) {
        if (point[field] === null) { run = null; continue; }
        if (!run) runs.push(run = []);
        run.push(`${x(point).toFixed(1)},${y(point[field]).toFixed(1)}`);
      }
      if (!name.includes("dashed")) {
        const areas = runs.map((one) => `M${one[0].split(",")[0]},${HEIGHT}L${one.join("L")}L${one[one.length - 1].split(",")[0]},${HEIGHT}Z`);
        shapes.push(drawn("path", {class: `area ${name}`, d: areas.join("")}));
      }
      // A run of one point is a dot: a line of no length with a round end.
      shapes.push(drawn("path", {class: `line ${name}`, "data-line": field, d: runs.map((one) => `M${one.length > 1 ? one.join("L") : `${one[0]}h0`}`).join("")}));
    }
    const scale = drawn("text", {x: 0, y: 11});
    scale.textContent = this.label(top);
    shapes.push(scale);
    if (cursor) {
      shapes.push(drawn("line", {x1: x(cursor), x2: x(cursor), y1: 0, y2: HEIGHT, class: "cross"}));
      for (const [field, name] of this.lines) {
        if (cursor[field] !== null) shapes.push(drawn("circle", {cx: x(cursor), cy: y(cursor[field]), r: 3, class: `dot ${name}`}));
      }
    }
    this.svg.replaceChildren(...shapes);
  }
}
