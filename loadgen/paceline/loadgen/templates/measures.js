// Charts of single requests: dots, goodput under the limits of two sliders, the timeline of one mode. Uses charts.js.

function drawDots(plot, spec, hidden) {
  const {svg, width, height} = frame(plot, spec.height);
  const box = {left: 56, right: width - 16, top: 30, bottom: height - 48};
  const shown = spec.series.filter(s => !hidden.has(s.key));
  const all = (shown.length ? shown : spec.series).flatMap(s => s.dots);
  const x = axis(spec.x, all.map(d => d[0]), box.left, box.right, Math.floor(width / 75));
  const y = axis(spec.y, all.map(d => d[1]), box.bottom, box.top, 6);
  drawYAxis(svg, y, box, spec.y.label);
  drawXAxis(svg, x, box, spec.x.label);
  const spots = [];
  for (const series of shown) {
    const group = node(svg, "g", {class: "series", "data-key": series.key, "data-points": series.dots.length});
    for (const [a, b] of series.dots) {
      const px = +x.at(a).toFixed(1), py = +y.at(b).toFixed(1);
      marker(group, series.key, px, py, 2.6, {opacity: .62, "stroke-width": .5});
      spots.push({px, py, series, p: {tip: `${spec.x.label}: ${a}\n${spec.y.label.replace(" (log scale)", "")}: ${y.format(b)}`}});
    }
  }
  for (const series of shown.filter(s => s.fit)) {
    const [[x0, y0], [x1, y1]] = series.fit;
    for (const [stroke, w] of [["var(--bg)", 5], [colour(series.key), 2.2]])
      node(svg, "line", {class: w > 3 ? "halo" : "fit", x1: x.at(x0), y1: y.at(Math.max(0, y0)), x2: x.at(x1), y2: y.at(Math.max(0, y1)), stroke, "stroke-width": w});
  }
  hover(plot, svg, spots);
}

// Of one level: judged and good requests under limits in ms (null: none). The same rules as goodput.py.
function judge(level, ttft, tpot) {
  let judged = 0, good = 0, tokens = 0;
  for (let i = 0; i < level.state.length; i++) {
    const state = level.state[i], first = level.ttft[i], each = level.tpot[i];
    if (state === "p") continue;
    if (state === "c") { if (ttft !== null && (first ?? level.e2e[i]) > ttft) judged++; continue; }
    judged++;
    if (state === "o" && (ttft === null || first === null || first <= ttft) && (tpot === null || each === null || each <= tpot)) { good++; tokens += level.out[i]; }
  }
  return {judged, good, share: judged ? good / judged : null, req_s: good * level.every / level.window_s, tok_s: tokens * level.every / level.window_s};
}

const GOODPUT = {
  "Good requests": {field: "req_s", label: "good requests a second", format: "count"},
  "Good tokens": {field: "tok_s", label: "tokens of good requests a second", format: "count"},
  "Attainment": {field: "share", label: "share of requests that were good", format: "percent", max: 1},
};

function drawGoodput(plot, spec, hidden) {
  const {ttft, tpot, view} = spec.state, y = GOODPUT[view];
  const series = spec.series.map(s => ({key: s.key, label: s.label, points: s.levels.map(level => {
    const found = judge(level, ttft, tpot);
    const part = level.every > 1 ? `\ncounted on one in ${level.every} of ${level.of} requests` : "";
    const tip = `${level.x}: ${found.good} of ${found.judged} good\n${found.req_s.toFixed(2)} good req/s, ${Math.round(found.tok_s)} good tok/s${part}`;
    return {x: level.x, y: found[y.field] ?? 0, label: "", tip};
  })}));
  drawXY(plot, {height: spec.height, series, x: spec.x, y: {label: y.label, scale: "linear", format: y.format, ...(y.max ? {max: y.max} : {})}}, hidden);
}

const LIMITS = {ttft: {name: "TTFT at most", low: 10, high: 60000}, tpot: {name: "TPOT at most", low: 1, high: 1000}};
const toSlider = (limit, v) => v === null ? 1000 : Math.min(999, Math.max(0, Math.round(999 * Math.log(v / limit.low) / Math.log(limit.high / limit.low))));
const fromSlider = (limit, at) => at >= 1000 ? null : +(limit.low * (limit.high / limit.low) ** (at / 999)).toPrecision(3);
const wordsOf = v => v === null ? "no limit" : FORMATS.ms(v);

// The sliders, the presets and the live table around the goodput chart; returns what draws it.
function goodputControls(figure, chart, redraw) {
  const plot = figure.querySelector(".plot"), bar = html(figure, "div", {class: "sliders"}), set = {};
  plot.before(bar);
  chart.state = {ttft: chart.start.ttft, tpot: chart.start.tpot, view: "Good requests"};
  const choose = html(bar, "label", {}, "Limits of ");
  const select = html(choose, "select", {"aria-label": "SLO preset"});
  html(select, "option", {value: ""}, "the sliders");
  const names = new Set();
  for (const preset of chart.presets) if (!names.has(preset.name)) { names.add(preset.name); html(select, "option", {value: preset.name}, preset.name); }
  for (const [key, limit] of Object.entries(LIMITS)) {
    const label = html(bar, "label", {class: "slider"}), text = html(label, "span", {}, limit.name), shown = html(text, "b");
    const slider = html(label, "input", {type: "range", min: 0, max: 1000, step: 1, "data-limit": key, "aria-label": `${limit.name}, milliseconds`});
    set[key] = (v, move) => { chart.state[key] = v; shown.textContent = ` ${wordsOf(v)}`; if (move) slider.value = toSlider(limit, v); slider.setAttribute("aria-valuetext", wordsOf(v)); };
    set[key](chart.state[key], true);
    slider.addEventListener("input", () => { select.value = ""; set[key](fromSlider(limit, +slider.value)); update(); });
  }
  select.value = chart.start.name || "";
  select.addEventListener("change", () => {
    const preset = chart.presets.find(p => p.name === select.value);
    if (!preset) return;
    set.ttft(preset.ttft, true); set.tpot(preset.tpot, true); update();
  });
  const details = html(figure, "details", {class: "live"});
  html(details, "summary", {}, "The numbers at these limits");
  const box = html(html(details, "div", {class: "scroll"}), "table");
  const update = () => { redraw(); table(); };
  const table = () => {
    box.replaceChildren();
    const head = html(html(box, "thead"), "tr"), body = html(box, "tbody");
    for (const name of ["Mode", "Level", "Good", "Attainment", "Goodput req/s", "Good tok/s"]) html(head, "th", {}, name);
    for (const series of chart.series) for (const [i, level] of series.levels.entries()) {
      const found = judge(level, chart.state.ttft, chart.state.tpot), row = html(body, "tr", i ? {} : {class: "first"});
      const cell = html(row, "td");
      html(cell, "span", {class: "dot", style: `background: var(--${series.key})`});
      cell.append(series.label);
      for (const text of [level.x, `${found.good} of ${found.judged}`, found.share === null ? "–" : FORMATS.percent(found.share), found.req_s.toFixed(2), found.tok_s.toFixed(1)]) html(row, "td", {}, text);
    }
  };
  table();
}

// One mode: what callers saw above what the server did, on one time axis.
function drawTimeline(plot, spec) {
  const {svg, width, height} = frame(plot, 760);
  const left = 56, right = width - 14, end = Math.max(spec.t_s.at(-1) || 1, spec.rate_t_s.at(-1) || 1);
  const x = {at: v => left + (right - left) * v / end, ticks: linearTicks(end, Math.floor(width / 90)), format: FORMATS.s};
  drawXAxis(svg, x, {left, right, top: 24, bottom: height - 44}, "seconds since the first request of this mode");
  for (const band of spec.levels) {
    node(svg, "line", {class: "axisline", x1: x.at(band.start_s), x2: x.at(band.start_s), y1: 10, y2: height - 44});
    if (x.at(band.end_s) - x.at(band.start_s) > 18) node(svg, "text", {class: "mark", x: x.at(band.start_s) + 4, y: 14}, String(band.level));
  }
  const strip = (top, tall, title, spec2, values, right_note) => {
    const box = {left, right, top, bottom: top + tall}, y = axis(spec2, values, box.bottom, box.top, Math.max(2, Math.floor(tall / 28)));
    drawYAxis(svg, y, box);
    node(svg, "text", {class: "strong over", x: left, y: top - 7}, title);
    if (right_note && width > 560) node(svg, "text", {class: "over", x: right, y: top - 7, "text-anchor": "end"}, right_note);
    return y;
  };
  const line = (t, v, y, stroke, extra = {}) => node(svg, "path", {class: "rate", d: steps(t, v, x, y), fill: "none", stroke, "stroke-width": 1.8, ...extra});
  const area = (v, y, fill, opacity) => node(svg, "path", {d: `${steps(spec.t_s, v, x, y)}V${y.at(0)}H${x.at(spec.t_s[0] || 0)}Z`, fill, opacity});
  const tone = colour(spec.key), dots = spec.ttft.dots;
  const part = (one, what) => one.every > 1 ? `one in ${one.every} of ${one.of} ${what}` : `all ${one.of} ${what}`;
  let y = strip(44, 120, "Time to first token", {scale: "log", format: "ms"}, dots.map(d => d[1]), part(spec.ttft, "requests"));
  const cloud = node(svg, "g", {class: "ttft", "data-key": spec.key, "data-points": dots.length});
  for (const [t, ms] of dots) node(cloud, "circle", {cx: x.at(t).toFixed(1), cy: y.at(ms).toFixed(1), r: 2, fill: tone, opacity: .6});
  drawUnserved(svg, spec.unserved, x, {left, right, top: 196, bottom: 236}, part);
  y = strip(268, 80, "Output tokens a second at the client", {scale: "linear"}, spec.client_tok_s);
  node(svg, "path", {class: "rate", d: `M${spec.rate_t_s.map((t, i) => `${x.at(t).toFixed(1)} ${y.at(spec.client_tok_s[i]).toFixed(1)}`).join("L")}`, fill: "none", stroke: tone, "stroke-width": 2});
  y = strip(380, 80, "Requests in the server", {scale: "linear"}, [1, ...spec.running, ...spec.waiting], "solid: running, dashed: waiting");
  line(spec.t_s, spec.running, y, tone);
  line(spec.t_s, spec.waiting, y, "var(--ink)", {"stroke-dasharray": "4 3", "stroke-width": 1.4});
  y = strip(492, 64, "Rows of the step", {scale: "linear"}, [1, ...spec.padded_rows], "solid: at work, red: padding");
  area(spec.padded_rows, y, "var(--waste)", .32); area(spec.rows, y, "var(--bg)", 1); area(spec.rows, y, tone, .8);
  const kv = spec.kv_share.map(v => v ?? 0);
  y = strip(588, 50, "Pages of keys and values in use", {scale: "linear", format: "percent"}, [.01, ...kv]);
  area(kv, y, tone, .45);
  const preempted = spec.preempted.reduce((a, b) => a + b, 0), rejected = spec.rejected.reduce((a, b) => a + b, 0);
  y = strip(670, 36, "Preempted and refused by the server", {scale: "linear"}, [1, ...spec.preempted, ...spec.rejected],
    preempted + rejected ? `solid: ${preempted} preempted, red: ${rejected} refused` : "none");
  const stems = node(svg, "g", {class: "preempted", "data-key": spec.key, "data-points": preempted});
  for (const [values, stroke, shift] of [[spec.preempted, tone, -1], [spec.rejected, "var(--waste)", 1]])
    for (const [i, v] of values.entries()) if (v) node(stems, "line", {x1: x.at(spec.t_s[i]) + shift, x2: x.at(spec.t_s[i]) + shift, y1: y.at(0), y2: y.at(v), stroke, "stroke-width": 2});
  timelineHover(plot, svg, spec, x, {left, right, top: 24, bottom: height - 44});
}

// How requests ended that were not served: a lane for each way, so that colour alone tells nothing.
function drawUnserved(svg, unserved, x, box, part) {
  const lanes = [["failed", "failed", "var(--waste)"], ["shed", "refused", "var(--ink)"], ["missed_deadline", "too late", "var(--faint)"], ["dropped", "not sent", "var(--soft)"]];
  const seen = lanes.filter(([end]) => unserved.marks.some(m => m[1] === end)), tall = (box.bottom - box.top) / Math.max(1, seen.length);
  node(svg, "text", {class: "strong over", x: box.left, y: box.top - 7}, "Requests not served");
  node(svg, "text", {class: "over", x: box.right, y: box.top - 7, "text-anchor": "end"}, unserved.of ? part(unserved, "of them") : "none");
  node(svg, "line", {class: "axisline", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom});
  const group = node(svg, "g", {class: "unserved", "data-key": "all", "data-points": unserved.marks.length});
  for (const [i, [end, label, stroke]] of seen.entries()) {
    const top = box.top + i * tall;
    node(svg, "text", {x: box.left - 6, y: top + tall / 2 + 4, "text-anchor": "end"}, label);
    for (const [t] of unserved.marks.filter(m => m[1] === end)) node(group, "line", {x1: x.at(t), x2: x.at(t), y1: top + 2, y2: top + tall - 2, stroke, "stroke-width": 1.6});
  }
}

function timelineHover(plot, svg, spec, x, box) {
  const bubble = tip(plot), hair = node(svg, "line", {class: "hair", y1: box.top, y2: box.bottom, visibility: "hidden"});
  const near = (ts, t) => { const i = ts.findIndex(v => v > t); return i < 0 ? ts.length - 1 : Math.max(0, i - 1); };
  svg.addEventListener("pointermove", event => {
    const [mx, my] = pointer(svg, event);
    if (mx < box.left || mx > box.right) return;
    const t = (mx - box.left) / (x.at(1) - x.at(0)), i = near(spec.t_s, t), j = near(spec.rate_t_s, t);
    for (const [name, value] of [["x1", mx], ["x2", mx], ["visibility", "visible"]]) hair.setAttribute(name, value);
    const kv = spec.kv_share[i] === null ? "" : `, ${FORMATS.percent(spec.kv_share[i])} of the pages`;
    const lost = (spec.preempted[i] ? `\n${spec.preempted[i]} preempted` : "") + (spec.rejected[i] ? `\n${spec.rejected[i]} refused` : "");
    bubble.show(FORMATS.s(t), `${Math.round(spec.client_tok_s[j] || 0)} tok/s\n${spec.running[i]} running, ${spec.waiting[i]} waiting\n${spec.rows[i]} of ${spec.padded_rows[i]} rows at work${kv}${lost}`, mx, my);
  });
  svg.addEventListener("pointerleave", () => { bubble.hide(); hair.setAttribute("visibility", "hidden"); });
}

Object.assign(DRAW, {dots: drawDots, goodput: drawGoodput, timeline: drawTimeline});
