"use strict";
(() => {
  // One chart a figure: lines share the time axis of all, so one pointer reads every chart at one second.
  const CHARTS = [
    { title: "Output tokens per second", unit: "tok/s", lines: [
      { key: "tok_s", name: "tok/s", colour: "blue", area: true }] },
    { title: "Time to first token", unit: "ms", limit: "ttft", lines: [
      { key: "ttft_p50", name: "median", colour: "purple" },
      { key: "ttft_p90", name: "p90", colour: "orange", dash: "5 3" }] },
    { title: "Requests", unit: "requests", whole: true, lines: [
      { key: "in_flight", name: "in flight", colour: "blue" },
      { key: "running", name: "server running", colour: "green", dash: "5 3" },
      { key: "waiting", name: "server waiting", colour: "orange", dash: "1.5 4" }] },
    { title: "Time per output token", unit: "ms", limit: "tpot", lines: [
      { key: "tpot_p50", name: "median", colour: "purple" }] },
    { title: "Requests ended per second", unit: "req/s", lines: [
      { key: "ok_s", name: "ok", colour: "green" },
      { key: "shed_s", name: "shed", colour: "orange", dash: "1.5 4" },
      { key: "failed_s", name: "failed", colour: "red", dash: "5 3" }] },
    { title: "KV cache and padding", unit: "%", percent: true, lines: [
      { key: "kv", name: "cache in use", colour: "green", area: true },
      { key: "padding", name: "padding waste", colour: "red", dash: "5 3" }] },
  ];
  const CARDS = [
    ["Output", "output"], ["TTFT, median", "TTFT, median"], ["TPOT, median", "TPOT, median"],
    ["In flight", "in flight"], ["Server queue", "server queue"], ["Within SLO", "within SLO"], ["Shed", "shed"], ["Failed", "failed"]];
  const SPACE = "http://www.w3.org/2000/svg";
  const LEFT = 50, RIGHT = 10, TOP = 10, BOTTOM = 24, HEIGHT = 210;
  let data = null, at = null;

  const make = (name, attributes = {}, text = "") => {
    const node = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  const html = (name, attributes = {}, text = "") => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
  const say = (value, chart) => {
    if (value === null || value === undefined) return "–";
    if (chart.percent) return `${Math.round(value * 100)} %`;
    return value >= 100 || chart.whole ? Math.round(value).toLocaleString("en") : value.toFixed(1);
  };
  const ceiling = (top, chart) => {
    if (chart.percent) return 1;
    const least = chart.whole ? 4 : 1;
    if (!(top > least)) return least;
    const power = 10 ** Math.floor(Math.log10(top));
    return [1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10].map((n) => n * power).find((n) => n >= top);
  };
  const limitOf = (chart) => {
    const found = new RegExp(`${chart.limit}(?:_p[\\d.]+)?(?:_ms)?=([\\d.]+)`).exec(data.slo || "");
    return chart.limit && found ? Number(found[1]) : null;
  };

  for (const chart of CHARTS) {
    chart.figure = html("figure");
    const caption = html("figcaption");
    caption.append(html("b", {}, chart.title));
    for (const line of chart.lines) {
      const key = html("span", { class: "key" });
      const mark = make("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" });
      mark.append(make("line", { x1: 1, x2: 17, y1: 4, y2: 4, "stroke-width": 2.5, "stroke-linecap": "round",
        stroke: `var(--${line.colour})`, "stroke-dasharray": line.dash || "none" }));
      line.output = html("output", {}, "–");
      key.append(mark, line.name, line.output);
      caption.append(key);
    }
    chart.svg = make("svg", { class: "chart", role: "img", "aria-label": chart.title });
    chart.figure.append(caption, chart.svg);
    chart.svg.addEventListener("pointermove", (event) => point(event, chart));
    chart.svg.addEventListener("pointerleave", () => { at = null; draw(); });
    document.getElementById("charts").append(chart.figure);
  }

  function point(event, chart) {
    if (!data || !data.times.length) return;
    const box = chart.svg.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    const [first, last] = range();
    const wanted = first + Math.min(1, Math.max(0, share)) * (last - first);
    at = data.times.reduce((best, time, i) => (Math.abs(time - wanted) < Math.abs(data.times[best] - wanted) ? i : best), 0);
    draw();
  }

  // At least a minute wide, so that a run's first seconds do not jump.
  const range = () => {
    const first = data.times[0] ?? 0;
    return [first, Math.max(first + 60, data.times[data.times.length - 1] ?? 0)];
  };

  function drawChart(chart) {
    const width = chart.svg.clientWidth || 560;
    const [first, last] = range();
    const limit = limitOf(chart);
    const values = chart.lines.flatMap((line) => data.lines[line.key].filter((v) => v !== null));
    const most = Math.max(0, ...values);
    // A limit that is far above the data would press it flat: then it is named, not drawn.
    const shown = limit !== null && limit <= most * 4 ? limit : null;
    const top = ceiling(Math.max(most, shown ?? 0) * 1.04, chart);
    const x = (time) => LEFT + ((time - first) / (last - first)) * (width - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
    const parts = [];
    const grid = make("g", { class: "grid" });
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const value = share * top;
      grid.append(make("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      const text = chart.percent ? `${share * 100} %` : Number(value.toPrecision(3)).toLocaleString("en");
      grid.append(make("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, text));
    }
    const step = [10, 15, 30, 60, 120].find((s) => (last - first) / s <= Math.max(3, width / 90)) || 300;
    for (let time = Math.ceil(first / step) * step; time <= last; time += step)
      grid.append(make("text", { x: x(time), y: HEIGHT - 6, "text-anchor": x(time) > width - 30 ? "end" : x(time) < LEFT + 14 ? "start" : "middle" }, clock(time)));
    parts.push(grid);
    for (const line of chart.lines) parts.push(...drawLine(line, x, y));
    if (limit !== null) {
      const place = shown === null ? TOP - 4 : y(limit);
      if (shown !== null) parts.push(make("line", { class: "limit", x1: LEFT, x2: width - RIGHT, y1: place, y2: place }));
      const name = shown === null ? `SLO ${limit.toLocaleString("en")} ms, far above` : `SLO ${limit.toLocaleString("en")} ms`;
      parts.push(make("text", { class: "limit-name", x: width - RIGHT - 2, y: place < TOP + 20 ? place + 14 : place - 5, "text-anchor": "end" }, name));
    }
    if (at !== null && at < data.times.length) {
      const place = x(data.times[at]);
      parts.push(make("line", { class: "cross", x1: place, x2: place, y1: TOP, y2: HEIGHT - BOTTOM }));
      parts.push(make("text", { x: Math.min(place + 5, width - 40), y: TOP + 10 }, clock(data.times[at])));
    }
    chart.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    chart.svg.replaceChildren(...parts);
    const words = [];
    for (const line of chart.lines) {
      const found = data.lines[line.key];
      line.output.textContent = say(at === null ? found[found.length - 1] : found[at], chart);
      words.push(`${line.name} ${line.output.textContent}`);
    }
    chart.svg.setAttribute("aria-label", `${chart.title}, ${chart.unit}: ${words.join(", ")}`);
  }

  function drawLine(line, x, y) {
    const runs = [];
    let run = null;
    data.lines[line.key].forEach((value, i) => {
      if (value === null) { run = null; return; }
      if (run === null) runs.push((run = []));
      run.push([x(data.times[i]), y(value)]);
    });
    const colour = `var(--${line.colour})`;
    return runs.flatMap((points) => {
      const path = points.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join("L");
      if (points.length === 1) return [make("circle", { cx: points[0][0], cy: points[0][1], r: 2, fill: colour })];
      const drawn = [make("path", { class: "line", "data-key": line.key, d: `M${path}`, stroke: colour, "stroke-dasharray": line.dash || "none" })];
      if (line.area) {
        const end = points[points.length - 1][0].toFixed(1), begin = points[0][0].toFixed(1);
        drawn.unshift(make("path", { class: "area", d: `M${path}L${end},${y(0)}L${begin},${y(0)}Z`, fill: colour }));
      }
      return drawn;
    });
  }

  function draw() {
    if (data) CHARTS.forEach(drawChart);
  }

  function tell() {
    const rows = new Map(data.rows.map((row) => [row.measure, row]));
    document.getElementById("cards").replaceChildren(...CARDS.filter(([name]) => rows.has(name)).map(([name, words]) => {
      const card = html("div", { class: "card" });
      const [figure, unit] = (rows.get(name).now || "–").split("\u00a0");
      const value = html("b", {}, figure);
      if (unit) value.append(html("small", {}, ` ${unit}`));
      card.append(value, html("span", {}, words));
      return card;
    }));
    document.getElementById("rows").replaceChildren(...data.rows.map((row) => {
      const line = html("tr");
      for (const key of ["measure", "now", "level", "p90", "p99", "meaning"]) line.append(html("td", {}, row[key]));
      return line;
    }));
    const state = document.getElementById("state");
    const last = data.times[data.times.length - 1];
    state.className = data.state === "running" || data.state === "spawning" ? "running" : "";
    state.textContent = last === undefined ? `${data.state}, nothing sent yet`
      : `${data.state}, ${clock(last)}${data.level ? `, level ${data.level}` : ""}${data.slo ? `, SLO ${data.slo}` : ""}`;
  }

  async function look() {
    try {
      const answer = await fetch("./paceline/data", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      data = await answer.json();
      tell();
      draw();
    } catch {
      const state = document.getElementById("state");
      state.className = "lost";
      state.textContent = "Locust does not answer";
    }
    setTimeout(look, 1000);
  }

  // Locust's own switch decides, where it was ever touched; else the system's.
  function dress() {
    const dark = window.localStorage.theme ? window.localStorage.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  }
  if (new URLSearchParams(location.search).has("embedded")) document.body.className = "embedded";
  window.addEventListener("storage", dress);
  window.addEventListener("resize", draw);
  setInterval(dress, 1000);
  dress();
  look();
})();
