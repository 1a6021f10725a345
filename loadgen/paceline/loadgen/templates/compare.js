// The forest of differences, and the page's theme button. Uses charts.js.
const GROUPS = JSON.parse(document.getElementById("data").textContent);

function drawForest(plot, groups) {
  const line = 24, head = 34, all = groups.flatMap(g => g.rows);
  const tall = groups.reduce((sum, g) => sum + head + g.rows.length * line, 0) + 8;
  const {svg, width} = frame(plot, tall + 46);
  if (!all.length) return;
  const left = width < 520 ? 104 : 150, right = width - 74;
  const reach = Math.min(3, Math.max(.1, ...all.map(r => Math.max(Math.abs(r.low), Math.abs(r.high), r.floor))) * 1.05);
  const at = v => left + (right - left) * (Math.max(-reach, Math.min(reach, v)) + reach) / (2 * reach);
  const step = niceStep(2 * reach, Math.max(2, Math.floor((right - left) / 80)));
  const ticks = [];
  for (let i = -Math.floor(reach / step); i * step <= reach + 1e-9; i++) ticks.push(i * step);
  const format = v => `${v > 1e-9 ? "+" : ""}${+(v * 100).toFixed(1)} %`;
  drawXAxis(svg, {at, ticks, format}, {left, right, top: 8, bottom: tall}, "difference of the new run from the base");
  node(svg, "line", {x1: at(0), x2: at(0), y1: 8, y2: tall, stroke: "var(--faint)"});
  let y = 0;
  for (const group of groups) {
    node(svg, "text", {class: "strong", x: 0, y: y + 22}, group.title);
    y += head;
    for (const row of group.rows) {
      const mid = y + line / 2, tone = {faster: "var(--good)", slower: "var(--waste)"}[row.verdict] || "var(--soft)";
      const g = node(svg, "g", {class: "difference", "data-key": row.verdict || "none", "data-tip": row.tip, "data-title": `${group.title}: ${row.label}`});
      node(g, "rect", {x: 0, y, width, height: line, fill: "transparent"});
      node(g, "text", {x: left - 10, y: mid + 4, "text-anchor": "end"}, row.label);
      node(g, "rect", {x: at(-row.floor), y: y + 5, width: Math.max(0, at(row.floor) - at(-row.floor)), height: line - 10, fill: "var(--faint)", opacity: .22});
      node(g, "line", {x1: at(row.low), x2: at(row.high), y1: mid, y2: mid, stroke: tone, "stroke-width": 2});
      node(g, "circle", {cx: at(row.change), cy: mid, r: 4.5, fill: tone, stroke: "var(--bg)", "stroke-width": 1.2});
      node(g, "text", {x: right + 8, y: mid + 4, style: row.verdict && tone !== "var(--soft)" ? `fill: ${tone}; font-weight: 600` : ""}, row.text);
      y += line;
    }
  }
  hoverable(plot, svg);
}

const forest = document.querySelector("#forest .plot");
let drawn = 0;
new ResizeObserver(() => { if (forest.clientWidth !== drawn) { drawn = forest.clientWidth; drawForest(forest, GROUPS); } }).observe(forest);
drawn = forest.clientWidth;
drawForest(forest, GROUPS);
const root = document.documentElement;
document.querySelector(".theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
document.body.dataset.ready = "yes";
