
const mean = (values) => values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
const fixed = (digits) => (value) => number(value, digits);
const latency = (name) => (status) => {
  const [p50, p95, p99] = status.latency[name];
  return p50 === null ? ["–", "none in the last minute"] : [seconds(p50), `p95 ${seconds(p95)} · p99 ${seconds(p99)}`, "p50, 1 min"];
};
const both = (name) => (point) => [seconds(point[`${name}_p50`]), `p95 ${seconds(point[`${name}_p95`])}`, "p50"];
const round = (value) => value < 1 ? `${number(1e3 * value)} ms` : `${number(value)} s`;
const lately = (status) => status.history.slice(-10);
const busy = (status) => lately(status).filter((point) => point.batch_rows > 0);

// What each card says now, and of a moment: [value, note, unit].
const CARDS = [
  {title: "Throughput", lines: [["tokens_per_s", "blue"]], least: 1, label: big, table: [["Tokens/s", "tokens_per_s", fixed(0)]],
    now: (status) => [number(mean(lately(status).map((point) => point.tokens_per_s))), `${number(status.load.output_tokens)} generated`, "tokens/s"],
    then: (point) => [number(point.tokens_per_s), "generated in that second", "tokens/s"]},
  {title: "Running", lines: [["running", "blue"]], most: (status) => status.max_batch_size, label: big, table: [["Running", "running", fixed(0)], ["Mean rows", "batch_rows", fixed(1)]],
    now: (status) => [number(status.load.running), busy(status).length ? `${number(mean(busy(status).map((point) => point.batch_rows)), 1)} rows a step` : "idle", `of ${number(status.max_batch_size)} rows`],
    then: (point) => [number(point.running), `${number(point.batch_rows, 1)} rows a step`]},
  {title: "Waiting", lines: [["waiting", "orange"]], least: 2, label: big, table: [["Waiting", "waiting", fixed(0)]],
    now: (status) => [number(status.load.waiting), status.load.waiting ? `${number(status.load.waiting_tokens)} prompt tokens, about ${seconds(status.load.queue_wait_s)}` : "no queue", `of ${number(status.max_queue_requests)}`],
    then: (point) => [number(point.waiting), "in the queue"]},
  {title: "KV pages in use", lines: [["pages", "blue"]], most: () => 1, label: percent, table: [["KV pages", "pages", percent]],
    now: ({load}) => [percent(load.pages_total ? load.pages_used / load.pages_total : 0), `${number(load.pages_used)} of ${number(load.pages_total)} pages`],
    then: (point) => [percent(point.pages), "of all pages"]},
  {title: "Time to first token", lines: [["ttft_p95", "purple dashed"], ["ttft_p50", "purple"]], least: 0.001, label: round, table: [["TTFT p50", "ttft_p50", seconds], ["TTFT p95", "ttft_p95", seconds]],
    now: latency("ttft"), then: both("ttft")},
  {title: "Between tokens", lines: [["itl_p95", "purple dashed"], ["itl_p50", "purple"]], least: 0.001, label: round, table: [["ITL p50", "itl_p50", seconds], ["ITL p95", "itl_p95", seconds]],
    now: latency("itl"), then: both("itl")},
  {title: "Padding waste", lines: [["padding_waste", "orange"]], most: () => 1, label: percent, table: [["Padding", "padding_waste", percent]],
    now: (status) => [busy(status).length ? percent(mean(busy(status).map((point) => point.padding_waste))) : "–", "of the tokens computed"],
    then: (point) => [point.batch_rows ? percent(point.padding_waste) : "–", "of the tokens computed"]},
  {title: "Preemptions", lines: [["preemptions", "orange"]], least: 2, label: big, table: [["Preempted", "preemptions", fixed(0)]],
    now: ({load}) => [number(load.preemptions), "since start: pages ran out"],
    then: (point) => [number(point.preemptions), "in that second"]},
];

let latest = null; // the latest document
let back = null; // seconds before now that the reader looks at; null: now

for (const card of CARDS) {
  const svg = drawn("svg", {});
  [card.value, card.note] = [element("div", {className: "value", textContent: "–"}), element("p")];
  const key = element("span", {className: "key"});
  if (card.lines.length > 1) {
    const [p95, p50] = card.lines.map(([, name]) => element("i", {className: name}));
    key.append(p50, "p50", p95, "p95");
  }
  $("cards").append(element("div", {className: "card"}, element("h3", {}, card.title, key), card.value, card.note, svg));
  card.chart = new Chart(card.title, svg, card.lines, card);
}

function drawCards() {
  const points = latest.history;
  const now = points.length ? points[points.length - 1].time_s : 0;
  const cursor = back === null ? null : points.reduce((best, point) => Math.abs(now - point.time_s - back) < Math.abs(now - best.time_s - back) ? point : best, points[0]);
  $("moment").textContent = cursor ? `${Math.round(now - cursor.time_s)} s ago` : "the last 3 minutes";
  for (const card of CARDS) {
    const [value, note, unit] = cursor ? card.then(cursor) : card.now(latest);
    card.value.replaceChildren(value, element("small", {textContent: unit ? ` ${unit}` : ""}));
    card.note.textContent = note;
    card.chart.draw(points, card.most?.(latest), cursor);
  }
}

function lookBack(to) {
  back = to === null || !latest?.history?.length ? null : Math.min(SPAN_S, Math.max(0, to));
  if (latest?.load) drawCards();
}

$("cards").addEventListener("pointermove", (event) => {
  const box = event.target.closest(".card")?.querySelector("svg").getBoundingClientRect();
  if (box) lookBack(SPAN_S * (1 - (event.clientX - box.left) / box.width));
});
$("cards").addEventListener("pointerleave", () => lookBack(null));
$("cards").addEventListener("blur", () => lookBack(null));
$("cards").addEventListener("keydown", (event) => {
  const step = {ArrowLeft: 1, ArrowRight: -1, PageUp: 10, PageDown: -10}[event.key];
  if (step) lookBack((back ?? 0) + step);
  else if (event.key === "Home") lookBack(SPAN_S);
  else if (event.key === "End" || event.key === "Escape") lookBack(null);
  else return;
  event.preventDefault();
});
addEventListener("resize", () => lookBack(back));

function fillTable() {
  if (!$("figures").open) return;
  const columns = CARDS.flatMap((card) => card.table);
  const points = latest.history.toReversed();
  const cell = (tag, text, name = "n") => element(tag, {textContent: text, className: name});
  $("figures").querySelector("thead").replaceChildren(element("tr", {}, cell("th", "Ago", ""), ...columns.map(([name]) => cell("th", name))));
  $("figures").querySelector("tbody").replaceChildren(...points.filter((_, at) => at % 10 === 0).map((point) => element("tr", {},
    cell("td", `${Math.round(points[0].time_s - point.time_s)} s`, ""),
    ...columns.map(([, field, format]) => cell("td", point[field] === null ? "–" : format(point[field]))))));
}
$("figures").addEventListener("toggle", () => latest?.load && fillTable());

function duration(total) {
  const [d, h, m] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24, Math.floor(total / 60) % 60];
  return d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min ${Math.floor(total % 60)} s` : `${Math.floor(total)} s`;
}

function ago(elapsed) { return elapsed < 1.5 ? "now" : `${duration(elapsed)} ago`; }

function showEnded({ended, now_s}) {
  $("none-ended").hidden = ended.length > 0;
  $("ended").hidden = !ended.length;
  $("ended").tBodies[0].replaceChildren(...ended.map((one) => {
    const good = one.status === "OK";
    const how = element("span", {className: good || one.status === "CANCELLED" ? "" : "bad", textContent: (good ? one.finish : one.status).replaceAll("_", " ").toLowerCase()});
    const row = element("tr", {}, element("td", {}, element("code", {textContent: one.id})), element("td", {textContent: ago(now_s - one.at_s)}), element("td", {}, how));
    if (one.preemptions) how.after(element("span", {className: "soft", textContent: ` · preempted ${one.preemptions}×`}));
    const began = one.ttft_s > 0;
    const numbers = [number(one.prompt_tokens), number(one.cached_tokens), one.finish ? number(one.output_tokens) : "–", began ? seconds(one.queue_s) : "–", began ? seconds(one.ttft_s) : "–",
      one.tpot_s ? seconds(one.tpot_s) : "–", seconds(one.total_s), began ? number(one.rows, 1) : "–"];
    row.append(...numbers.map((textContent) => element("td", {textContent, className: "n"})));
    return row;
  }));
}

function pairs(id, rows) {
  $(id).replaceChildren(...Object.entries(rows).map(([name, value]) => element("div", {}, element("dt", {textContent: name}), element("dd", {textContent: value}))));
}

function showFacts(status) {
  const {model, load} = status;
  const prompt = load.prompt_tokens + load.cached_tokens;
  pairs("facts", {
    "Model": `${model.name} (${model.architecture}, ${big(model.num_parameters)} parameters)`,
    "Computes": `${model.dtype} on ${model.device}, ${status.num_threads} ${status.num_threads === 1 ? "thread" : "threads"}`,
    "Context": `${number(model.context_tokens)} tokens, pages of ${status.page_size}`,
    "Batching": `${status.mode}, at most ${status.max_batch_size} rows`,
    "Requests": `${number(load.requests_finished)} finished, ${number(load.requests_rejected)} refused by a full queue`,
    "Tokens": `${big(load.prompt_tokens)} of prompts, ${big(load.output_tokens)} generated`,
    "Prefix cache": prompt ? `${percent(load.cached_tokens / prompt)} of prompt tokens found` : "nothing asked yet",
    "Steps": `${number(load.steps)}, ${seconds(load.steps ? load.step_s / load.steps : null)} on average`,
    "Access": status.protection || "no TLS, no tokens",
    "Up": duration(status.uptime_s),
    "Version": status.version,
  });
  pairs("settings", Object.fromEntries(Object.entries(status.settings).map(([name, value]) => [name, value === null ? "unset" : String(value)])));
}

function health(state) {
  if ($("health").textContent !== state) $("health").textContent = state; // or it would be read aloud every second
  $("health").className = state;
  document.body.classList.toggle("stale", state === "unreachable");
}

function show(status) {
  latest = status;
  const newest = status.history?.at(-1)?.time_s;
  if (newest) status.history = status.history.filter((point) => newest - point.time_s <= SPAN_S);
  health(status.health);
  $("model").textContent = [status.model.name, status.mode].filter(Boolean).join(" · ");
  document.title = `Paceline · ${status.model.name || status.health}`;
  if (!status.load) return;
  drawCards();
  fillTable();
  showEnded(status);
  showFacts(status);
  offerPlayground(status.playground);
}

let timer = 0;

async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return; // whoever looks again is told at once
  timer = setTimeout(refresh, 1000);
  try {
    const answer = await fetch("status.json", {signal: AbortSignal.timeout(5000)});
    show(await answer.json());
  } catch {
    health("unreachable");
  }
}
addEventListener("visibilitychange", refresh);
