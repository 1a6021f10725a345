"use strict";
// Wires the page: each figure to its chart, legends, views, the theme button, printing.
const CHARTS = JSON.parse(document.getElementById("charts").textContent);

function legend(figure, entries, hidden, redraw) {
  const bar = html(figure, "div", {class: "legend"});
  for (const {key, label} of entries) {
    const button = html(bar, "button", {type: "button", "aria-pressed": "true", "data-key": key, title: `Show or hide ${label}`});
    const mark = node(button, "svg", {width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true"});
    marker(mark, key, 0, 0, 4.5);
    button.append(label);
    button.addEventListener("click", () => {
      const off = !hidden.has(key);
      if (off && hidden.size === entries.length - 1) return;
      off ? hidden.add(key) : hidden.delete(key);
      button.setAttribute("aria-pressed", String(!off));
      redraw();
    });
  }
  return bar;
}

function chooser(figure, views, choose) {
  const bar = html(figure, "div", {class: "views", role: "group"});
  views.forEach((view, i) => {
    const button = html(bar, "button", {type: "button", "aria-pressed": String(i === 0)}, view.name);
    button.addEventListener("click", () => {
      for (const other of bar.children) other.setAttribute("aria-pressed", String(other === button));
      choose(view);
    });
  });
  return bar;
}

function mount(figure) {
  const chart = CHARTS[figure.id], plot = figure.querySelector(".plot"), hidden = new Set();
  if (!chart) return;
  let view = chart.views ? chart.views[0] : chart;
  if (chart.kind === "goodput") {
    goodputControls(figure, chart, () => draw());
    plot.before(chooser(figure, Object.keys(GOODPUT).map(name => ({name})), chosen => { chart.state.view = chosen.name; draw(); }));
  }
  const draw = () => DRAW[chart.kind](plot, {...chart, ...view}, hidden);
  if (chart.views && chart.views.length > 1) plot.before(chooser(figure, chart.views, chosen => { view = chosen; draw(); }));
  if (chart.legend && chart.legend.length > 1) plot.before(legend(figure, chart.legend, hidden, draw));
  let width = 0;
  new ResizeObserver(() => { if (plot.clientWidth !== width) { width = plot.clientWidth; draw(); } }).observe(plot);
  width = plot.clientWidth;
  draw();
}

for (const figure of document.querySelectorAll("figure[id]")) mount(figure);

const root = document.documentElement;
document.querySelector(".theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
document.body.dataset.ready = "yes";
