"use strict";
// Small charts as inline SVG. A chart is a plain object (see charts.py); it is drawn at the width it has, and again when that changes.
const NS = "http://www.w3.org/2000/svg";
const colour = key => `var(--${key}, var(--faint))`;

function node(parent, tag, attributes = {}, text) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function html(parent, tag, attributes = {}, text) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

const FORMATS = {
  count: v => v >= 10000 ? `${Math.round(v / 1000)}k` : String(Math.round(v * 10) / 10),
  ms: v => v >= 10000 ? `${Math.round(v / 1000)} s` : v >= 1000 ? `${+(v / 1000).toFixed(1)} s` : v >= 10 ? `${Math.round(v)} ms` : `${+v.toFixed(1)} ms`,
  s: v => `${+v.toFixed(1)} s`,
  percent: v => `${+(v * 100).toFixed(Math.abs(v) < .0995 ? 1 : 0)} %`,
};

function niceStep(span, wanted) {
  const raw = span / Math.max(wanted, 1), power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 2.5, 5, 10].map(m => m * power).find(step => step >= raw);
}

function linearTicks(high, wanted) {
  const step = niceStep(high || 1, wanted), ticks = [];
  for (let i = 0; i * step <= high * 1.0001 + 1e-12; i++) ticks.push(+(i * step).toPrecision(12));
  return ticks;
}

function logTicks(low, high, room) {
  for (const steps of [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
      for (const m of steps) { const v = m * 10 ** p; if (v >= low * 0.999 && v <= high * 1.001) ticks.push(v); }
    if (ticks.length <= (steps.length > 3 ? Math.min(room, 5) : room) || steps.length === 1) return ticks;
  }
}

// An axis: its range from the data, a function from value to pixel, its ticks.
function axis(spec, values, from, to, room) {
  const format = FORMATS[spec.format || "count"];
  const finite = values.filter(v => Number.isFinite(v) && (spec.scale === "linear" || v > 0));
  if (!finite.length) finite.push(1);
  let low = Math.min(...finite), high = Math.max(...finite);
  if (spec.scale === "linear") {
    low = 0; high = spec.max ?? high * 1.06 ?? 1;
    if (!(high > 0)) high = 1;
    return {at: v => from + (to - from) * v / high, ticks: linearTicks(high, room), format, low, high};
  }
  const exact = spec.scale === "levels";
  const margin = exact ? 1.18 : 1.25;
  low /= margin; high *= margin;
  const ticks = exact ? [...new Set(finite)].sort((a, b) => a - b) : logTicks(low, high, room);
  const at = v => from + (to - from) * (Math.log(v / low) / Math.log(high / low));
  return {at, ticks, format, low, high};
}

function frame(plot, height) {
  const width = Math.max(260, Math.floor(plot.clientWidth || 640));
  plot.replaceChildren();
  const svg = node(plot, "svg", {viewBox: `0 0 ${width} ${height}`, height, role: "img"});
  svg.setAttribute("aria-label", plot.dataset.label || "chart");
  return {svg, width, height};
}

function drawXAxis(svg, x, box, label) {
  for (const tick of x.ticks) {
    node(svg, "line", {class: "grid", x1: x.at(tick), x2: x.at(tick), y1: box.top, y2: box.bottom});
    node(svg, "text", {class: "axis", x: x.at(tick), y: box.bottom + 18, "text-anchor": "middle"}, x.format(tick));
  }
  node(svg, "line", {class: "axisline", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom});
  if (label) node(svg, "text", {x: (box.left + box.right) / 2, y: box.bottom + 38, "text-anchor": "middle"}, label);
}

function drawYAxis(svg, y, box, label) {
  for (const tick of y.ticks) {
    node(svg, "line", {class: "grid", x1: box.left, x2: box.right, y1: y.at(tick), y2: y.at(tick)});
    node(svg, "text", {class: "axis", x: box.left - 8, y: y.at(tick) + 4, "text-anchor": "end"}, y.format(tick));
  }
  if (label) node(svg, "text", {x: Math.max(box.left - 46, 2), y: box.top - 12}, label);
}

// A shape of its own for each system, so that colour is never the only difference.
const SHAPES = {
  "continuous": r => `M${-r} 0A${r} ${r} 0 1 0 ${r} 0A${r} ${r} 0 1 0 ${-r} 0Z`,
  "dynamic": r => `M0 ${-r * 1.3}L${r * 1.3} 0L0 ${r * 1.3}L${-r * 1.3} 0Z`,
  "static": r => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
  "sequential": r => `M0 ${-r * 1.25}L${r * 1.2} ${r}H${-r * 1.2}Z`,
  "transformers": r => `M${-r} ${-r}L${r} ${r}M${r} ${-r}L${-r} ${r}`,
  "transformers-batched": r => `M0 ${-r * 1.25}V${r * 1.25}M${-r * 1.25} 0H${r * 1.25}`,
};
const shape = key => SHAPES[key] || SHAPES.continuous;
const open = key => key.startsWith("transformers");

function marker(parent, key, x, y, r = 4.5, extra = {}) {
  const stroke = open(key) ? {stroke: colour(key), "stroke-width": 2.2, fill: "none"} : {fill: colour(key), stroke: "var(--bg)", "stroke-width": 1.2};
  return node(parent, "path", {d: shape(key)(r), transform: `translate(${x} ${y})`, ...stroke, ...extra});
}

function tip(plot) {
  let box = null;
  return {
    show(title, text, x, y) {
      if (!box) box = html(plot, "div", {class: "tip"});
      box.hidden = false;
      box.replaceChildren();
      html(box, "b", {}, title);
      box.append(text);
      const right = x + box.offsetWidth + 18 > plot.clientWidth;
      box.style.left = `${Math.max(0, right ? x - box.offsetWidth - 14 : x + 14)}px`;
      box.style.top = `${Math.max(-6, y - box.offsetHeight / 2)}px`;
    },
    hide() { if (box) box.hidden = true; },
  };
}

function pointer(svg, event) {
  const box = svg.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

// Puts small labels beside points where they hit nothing; a label that finds no place is left out.
function placeLabels(svg, wanted, taken, box) {
  for (const {x, y, text} of wanted) {
    const w = 6.6 * text.length + 4, h = 13;
    for (const [dx, dy] of [[0, -15], [0, 15], [w / 2 + 9, 0], [-w / 2 - 9, 0], [w / 2 + 6, -12], [-w / 2 - 6, -12], [w / 2 + 6, 12], [-w / 2 - 6, 12]]) {
      const r = {l: x + dx - w / 2, r: x + dx + w / 2, t: y + dy - h / 2, b: y + dy + h / 2};
      if (r.l < box.left - 4 || r.r > box.right + 24 || r.t < box.top - 14 || r.b > box.bottom) continue;
      if (taken.some(o => r.l < o.r && r.r > o.l && r.t < o.b && r.b > o.t)) continue;
      taken.push(r);
      node(svg, "text", {class: "mark", x: x + dx, y: y + dy + 4, "text-anchor": "middle"}, text);
      break;
    }
  }
}

function drawXY(plot, spec, hidden) {
  const {svg, width, height} = frame(plot, spec.height || 380);
  const box = {left: 56, right: width - 20, top: 30, bottom: height - 48};
  const shown = spec.series.filter(s => !hidden.has(s.key));
  const scope = shown.length ? shown : spec.series;
  const xs = scope.flatMap(s => s.points.map(p => p.x));
  const ys = scope.flatMap(s => s.points.flatMap(p => [p.y, ...(p.hi === undefined ? [] : [p.lo, p.hi])]));
  const x = axis(spec.x, xs, box.left, box.right, Math.floor(width / 75));
  const y = axis(spec.y, ys, box.bottom, box.top, 6);
  drawYAxis(svg, y, box, spec.y.label);
  drawXAxis(svg, x, box, spec.x.label);
  const spots = [], labels = [];
  for (const series of shown) {
    const group = node(svg, "g", {class: "series", "data-key": series.key, "data-points": series.points.length});
    const banded = series.points.filter(p => p.hi !== undefined);
    if (banded.length > 1) {
      const upper = banded.map(p => `${x.at(p.x)} ${y.at(p.hi)}`), lower = banded.map(p => `${x.at(p.x)} ${y.at(p.lo)}`).reverse();
      node(group, "path", {class: "band", d: `M${upper.join("L")}L${lower.join("L")}Z`, fill: colour(series.key), opacity: .11});
    }
    const dash = open(series.key) ? {"stroke-dasharray": "6 4"} : {};
    const path = series.points.map(p => `${x.at(p.x)} ${y.at(p.y)}`).join("L");
    node(group, "path", {d: `M${path}`, fill: "none", stroke: colour(series.key), "stroke-width": 2.2, "stroke-linejoin": "round", ...dash});
    for (const p of series.points) {
      const px = x.at(p.x), py = y.at(p.y);
      spots.push({px, py, p, series});
      if (spec.plain) continue;
      const hollow = p.hollow ? {fill: "var(--bg)", stroke: colour(series.key), "stroke-width": 1.6} : {};
      marker(group, series.key, px, py, 4.5, {class: "point", ...hollow});
      if (p.label) labels.push({x: px, y: py, text: p.label});
    }
  }
  placeLabels(svg, labels, spots.map(s => ({l: s.px - 5, r: s.px + 5, t: s.py - 5, b: s.py + 5})), box);
  hover(plot, svg, spots);
}

function hover(plot, svg, spots) {
  const bubble = tip(plot);
  const ring = node(svg, "circle", {r: 9, fill: "none", "stroke-width": 2, visibility: "hidden", "pointer-events": "none"});
  const leave = () => { bubble.hide(); ring.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointermove", event => {
    const [mx, my] = pointer(svg, event);
    let best = null, distance = 60;
    for (const spot of spots) {
      const d = Math.hypot(spot.px - mx, spot.py - my);
      if (d < distance) { best = spot; distance = d; }
    }
    if (!best) return leave();
    for (const [name, value] of [["cx", best.px], ["cy", best.py], ["stroke", colour(best.series.key)], ["visibility", "visible"]]) ring.setAttribute(name, value);
    bubble.show(best.series.label, best.p.tip, best.px, best.py);
  });
  svg.addEventListener("pointerleave", leave);
}

function hoverable(plot, svg) {
  const bubble = tip(plot);
  svg.addEventListener("pointermove", event => {
    const target = event.target.closest("[data-tip]");
    if (!target) return bubble.hide();
    const [mx, my] = pointer(svg, event);
    bubble.show(target.dataset.title || "", target.dataset.tip, mx, my);
  });
  svg.addEventListener("pointerleave", () => bubble.hide());
}

// Horizontal bars, each one part or several: padding waste, where time goes.
function drawBars(plot, spec, hidden) {
  const line = spec.rowHeight || 30;
  let y = 8;
  const placed = spec.rows.map((row, i) => {
    if (i && row.group !== spec.rows[i - 1].group) y += 14;
    const at = y; y += line; return {...row, at};
  });
  const {svg, width} = frame(plot, y + 46);
  const longest = Math.max(...spec.rows.map(r => r.label.length));
  const left = Math.min(width * 0.42, 16 + longest * 6.7), box = {left, right: width - 58, top: 4, bottom: y + 4};
  const parts = row => row.parts.filter(p => !hidden.has(p.key));
  const total = row => parts(row).reduce((sum, p) => sum + p.value, 0);
  const x = axis({...spec.x, scale: "linear"}, spec.rows.map(total), box.left, box.right, Math.floor(width / 110));
  drawXAxis(svg, x, box, spec.x.label);
  for (const row of placed) {
    const group = node(svg, "g", {class: "bar", "data-key": row.key, "data-tip": row.tip, "data-title": row.title || row.label});
    node(group, "rect", {x: 0, y: row.at, width, height: line, fill: "transparent"});
    node(group, "text", {x: left - 10, y: row.at + line / 2 + 4, "text-anchor": "end", class: row.strong ? "strong" : ""}, row.label);
    let from = 0;
    for (const part of parts(row)) {
      const w = Math.max(0, x.at(from + part.value) - x.at(from));
      node(group, "rect", {class: "part", x: x.at(from), y: row.at + line * .16, width: w, height: line * .68, rx: Math.min(2, w / 2), fill: colour(part.key)});
      from += part.value;
    }
    node(group, "text", {x: x.at(from) + 7, y: row.at + line / 2 + 4, class: row.strong ? "strong" : ""}, row.text);
  }
  hoverable(plot, svg);
}

function steps(t, v, x, y) {
  let d = "";
  for (let i = 0; i < t.length; i++) d += `${i ? "H" : "M"}${x.at(t[i]).toFixed(1)}${i ? "V" : " "}${y.at(v[i]).toFixed(1)}`;
  return d;
}

// One panel per mode on one time axis: rows paid for, rows at work, and the tokens that came of it.
function drawOccupancy(plot, spec, hidden) {
  const panels = spec.panels.filter(p => !hidden.has(p.key)), each = 92, gap = 40, below = 150;
  const {svg, width, height} = frame(plot, panels.length * (each + gap) + below + 70);
  const left = 46, right = width - 14;
  const end = Math.max(...spec.panels.map(p => p.t.at(-1) || 1));
  const x = {at: v => left + (right - left) * v / end, ticks: linearTicks(end, Math.floor(width / 90)), format: FORMATS.s};
  const most = Math.max(1, ...spec.panels.flatMap(p => p.padded));
  const foot = 22 + panels.length * (each + gap) + 8 + below - 20;
  drawXAxis(svg, x, {left, right, top: 22, bottom: foot}, "seconds since the first request of each mode");
  panels.forEach((panel, i) => {
    const top = 22 + i * (each + gap), box = {left, right, top, bottom: top + each};
    const y = axis({scale: "linear", max: most * 1.04}, [most], box.bottom, box.top, 3);
    for (const tick of most > 1 ? [0, Math.round(most / 2), most] : [0, 1]) {
      node(svg, "line", {class: "grid", x1: left, x2: right, y1: y.at(tick), y2: y.at(tick)});
      node(svg, "text", {class: "axis", x: left - 8, y: y.at(tick) + 4, "text-anchor": "end"}, y.format(tick));
    }
    const group = node(svg, "g", {class: "panel", "data-key": panel.key, "data-points": panel.t.length});
    const close = `H${x.at(panel.t.at(-1) || 0)}V${y.at(0)}H${x.at(panel.t[0] || 0)}Z`;
    node(group, "path", {class: "padded", d: steps(panel.t, panel.padded, x, y) + close, fill: "var(--waste)", opacity: .3});
    node(group, "path", {class: "work", d: steps(panel.t, panel.rows, x, y) + close, fill: "var(--bg)"});
    node(group, "path", {d: steps(panel.t, panel.rows, x, y) + close, fill: colour(panel.key), opacity: .8});
    for (const band of panel.levels) {
      node(svg, "line", {class: "axisline", x1: x.at(band.start_s), x2: x.at(band.start_s), y1: box.top, y2: box.bottom});
      if (x.at(band.end_s) - x.at(band.start_s) > 18)
        node(svg, "text", {class: "mark", x: x.at(band.start_s) + 4, y: box.top + 10}, String(band.level));
    }
    node(svg, "text", {class: "strong", x: left, y: top - 7}, panel.label);
    node(svg, "text", {x: right, y: top - 7, "text-anchor": "end"}, width < 520 ? panel.short : panel.note);
  });
  const top = 22 + panels.length * (each + gap) + 8, box = {left, right, top, bottom: top + below - 20};
  const rates = panels.flatMap(p => p.tok_s);
  const y = axis({scale: "linear"}, rates, box.bottom, box.top, 4);
  drawYAxis(svg, y, box);
  node(svg, "text", {class: "strong", x: left, y: top - 9}, "Tokens per second that reached the client");
  for (const panel of panels)
    node(svg, "path", {class: "rate", "data-key": panel.key, d: `M${panel.rate_t.map((t, i) => `${x.at(t).toFixed(1)} ${y.at(panel.tok_s[i]).toFixed(1)}`).join("L")}`, fill: "none", stroke: colour(panel.key), "stroke-width": 2});
  crosshair(plot, svg, panels, x, {left, right, top: 22, bottom: box.bottom});
}

function crosshair(plot, svg, panels, x, box) {
  const bubble = tip(plot);
  const hair = node(svg, "line", {class: "hair", y1: box.top, y2: box.bottom, visibility: "hidden"});
  const near = (ts, t) => { let i = ts.findIndex(v => v > t); return i < 0 ? ts.length - 1 : Math.max(0, i - 1); };
  svg.addEventListener("pointermove", event => {
    const [mx, my] = pointer(svg, event);
    if (mx < box.left || mx > box.right) return;
    const end = x.at(1) - x.at(0), t = (mx - box.left) / end;
    hair.setAttribute("x1", mx); hair.setAttribute("x2", mx); hair.setAttribute("visibility", "visible");
    const lines = panels.filter(p => t <= (p.t.at(-1) || 0)).map(p => {
      const i = near(p.t, t), j = near(p.rate_t, t);
      return `${p.label}: ${p.rows[i]} of ${p.padded[i]} rows, ${p.waiting[i]} waiting, ${Math.round(p.tok_s[j] || 0)} tok/s`;
    });
    bubble.show(FORMATS.s(t), lines.join("\n") || "nothing ran here", mx, my);
  });
  svg.addEventListener("pointerleave", () => { bubble.hide(); hair.setAttribute("visibility", "hidden"); });
}

// Requests as bars in the rows of the batch: a gap is a row that did nothing.
function drawLanes(plot, spec, hidden) {
  const panels = spec.panels.filter(p => !hidden.has(p.key));
  const line = 13, head = 30, gap = 14;
  const tall = panels.reduce((sum, p) => sum + head + p.lanes.length * line + gap, 0);
  const {svg, width} = frame(plot, tall + 40);
  const left = 8, right = width - 8, end = Math.max(...spec.panels.map(p => p.seconds));
  const x = {at: v => left + (right - left) * v / end, ticks: linearTicks(end, Math.floor(width / 90)), format: FORMATS.s};
  drawXAxis(svg, x, {left, right, top: head, bottom: tall}, "seconds");
  let top = 0;
  for (const panel of panels) {
    node(svg, "text", {class: "strong", x: left, y: top + 20}, panel.label);
    node(svg, "text", {x: right, y: top + 20, "text-anchor": "end"}, width < 520 ? panel.short : panel.note);
    const group = node(svg, "g", {class: "lanes", "data-key": panel.key});
    panel.lanes.forEach((lane, i) => {
      const y = top + head + i * line;
      node(group, "rect", {x: left, y, width: right - left, height: line - 2, fill: "var(--waste)", opacity: .12});
      lane.forEach(([from, to, text], n) => {
        const w = Math.max(1.2, x.at(to) - x.at(from) - 1);
        node(group, "rect", {x: x.at(from), y, width: w, height: line - 2, rx: 2, fill: colour(panel.key), opacity: n % 2 ? .72 : .95, "data-tip": text, "data-title": panel.label});
      });
    });
    top += head + panel.lanes.length * line + gap;
  }
  hoverable(plot, svg);
}

// What ran where and when.
function drawGantt(plot, spec, hidden) {
  const line = 30, {svg, width} = frame(plot, spec.lanes.length * line + 56);
  const narrow = width < 520, left = narrow ? 96 : 196, right = width - 14;
  const box = {left, right, top: 4, bottom: spec.lanes.length * line + 8};
  const end = Math.max(1, ...spec.lanes.flatMap(l => l.bars.map(b => b.end_s)));
  const x = {at: v => left + (right - left) * v / end, ticks: linearTicks(end, Math.floor(width / 90)), format: FORMATS.s};
  drawXAxis(svg, x, box, "seconds since the bench began");
  spec.lanes.forEach((lane, i) => {
    node(svg, "text", {x: left - 10, y: i * line + 23, "text-anchor": "end"}, narrow ? lane.short : lane.label);
    const group = node(svg, "g", {class: "gantt", "data-key": lane.key});
    for (const bar of lane.bars) {
      if (hidden.has(bar.kind)) continue;
      const w = Math.max(1.5, x.at(bar.end_s) - x.at(bar.start_s) - 1);
      const look = {setup: .3, warmup: .55, level: .95, drain: .4}[bar.kind] ?? .9;
      node(group, "rect", {x: x.at(bar.start_s), y: i * line + 9, width: w, height: line - 10, rx: 2, fill: colour(lane.key), opacity: look, "data-tip": bar.tip, "data-title": bar.label});
      if (bar.short && w > 7 * bar.short.length + 6)
        node(group, "text", {x: x.at(bar.start_s) + w / 2, y: i * line + 24, "text-anchor": "middle", style: `fill: ${look > .5 ? "var(--bg)" : "var(--ink)"}; font-size: 11px; pointer-events: none`}, bar.short);
    }
  });
  hoverable(plot, svg);
}

const DRAW = {xy: drawXY, bars: drawBars, occupancy: drawOccupancy, lanes: drawLanes, gantt: drawGantt};
