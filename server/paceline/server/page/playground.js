
let running = null; // the AbortController of the prompt being answered

function offerPlayground({off, token, chat, max_tokens}) {
  $("play").hidden = Boolean(off);
  $("play-note").textContent = off ? `Off: ${off}.` : "a call to this server like any other";
  $("token-label").hidden = !token;
  $("kinds").hidden = !chat;
  $("play").elements.max_tokens.placeholder = max_tokens;
}

// A GenerateStreamRequest in protobuf's JSON. An empty field is left to the server.
function request() {
  const fields = $("play").elements;
  const asked = (...names) => Object.fromEntries(names.filter((name) => fields[name].value !== "").map((name) => [name, fields[name].value]));
  const prompt = $("prompt").value;
  const chat = !$("kinds").hidden && fields.kind.value === "chat";
  const generation = {
    ...(chat ? {chat: {messages: [{role: "user", content: prompt}]}} : {text: prompt}),
    sampling: asked("temperature", "top_p", "top_k", "seed"),
    stopping: asked("max_tokens"),
  };
  if (fields.stop.value) generation.stopping.stop = [fields.stop.value];
  if (fields.time_limit.value) generation.time_limit_ms = Math.max(1, Math.round(1000 * fields.time_limit.value));
  return JSON.stringify({generation});
}

async function* messages(signal) {
  const headers = {"Content-Type": "application/json", "Paceline-Playground": "1"};
  const token = $("play").elements.token.value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch("playground", {method: "POST", headers, body: request(), signal});
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const lines = (rest + read.value).split("\n");
    rest = lines.pop();
    yield* lines.map((line) => JSON.parse(line));
  }
}

function outcome(text, bad = false) {
  $("outcome").className = bad ? "bad" : "";
  $("outcome").textContent = text;
}

function timing(rows) {
  $("timings").replaceChildren(...rows.map(([name, value, phase]) => {
    const dt = element("dt", {}, ...(phase ? [element("i", {className: phase})] : []), name);
    return element("div", {className: name === "Seed" ? "broad" : ""}, dt, element("dd", {textContent: value}));
  }));
}

// Until the end there is this page's own clock alone.
function soFar(seen) {
  const elapsed = (performance.now() - seen.begun) / 1000;
  timing([["First token, here", seen.first ? seconds((seen.first - seen.begun) / 1000) : "–"], ["Output tokens", number(seen.tokens)], ["So far", seconds(elapsed)]]);
}

function showTimings({usage = {}, timings = {}}, seed) {
  const {queue_ms = 0, prefill_ms = 0, decode_ms = 0, ttft_ms = 0, total_ms = 0, batch_rows_mean = 0, batch_rows_max = 0, preemptions = 0} = timings;
  const tokens = usage.completion_tokens ?? 0;
  const phases = {queue: queue_ms, prefill: prefill_ms, decode: decode_ms};
  $("phases").hidden = false;
  for (const [name, value] of Object.entries(phases)) $("phases").querySelector(`.${name}`).style.flexGrow = Math.max(value, 1e-3);
  const ms = (value) => seconds(value / 1000);
  timing([
    ["Queue", ms(queue_ms), "queue"], ["Prefill", ms(prefill_ms), "prefill"], ["Decode", ms(decode_ms), "decode"],
    ["TTFT", ttft_ms ? ms(ttft_ms) : "–"], ["TPOT", tokens > 1 ? ms(decode_ms / (tokens - 1)) : "–"], ["Total", ms(total_ms)],
    ["Prompt tokens", `${number(usage.prompt_tokens ?? 0)}${usage.cached_tokens ? `, ${number(usage.cached_tokens)} cached` : ""}`],
    ["Output tokens", number(tokens)], ["Rows", `${number(batch_rows_mean, 1)}, most ${batch_rows_max}`],
    ...(preemptions ? [["Preempted", `${preemptions}×`]] : []), ["Seed", seed],
  ]);
}

function take(message, seen) {
  if (message.error) {
    const {status, message: text, violations} = message.error;
    outcome([`${status}: ${text}`, ...violations.map(({field, description}) => `${field}: ${description}`).filter((line) => !text.includes(line))].join("\n"), true);
    seen.ended = true;
    return;
  }
  if (message.header) seen.seed = message.header.seed ?? "0";
  if (message.num_tokens) {
    seen.first ??= performance.now();
    seen.tokens += message.num_tokens;
  }
  if (message.text) {
    const box = $("answer");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    box.append(message.text);
    if (atEnd) box.scrollTop = box.scrollHeight;
  }
  if (message.summary) {
    seen.ended = true;
    outcome(`Ended: ${message.finish.reason.replace("FINISH_REASON_", "").replaceAll("_", " ").toLowerCase()}`);
    showTimings(message.summary, seen.seed);
  } else {
    soFar(seen);
  }
}

async function play() {
  if (running || $("play").hidden) return;
  running = new AbortController();
  const seen = {begun: performance.now(), first: null, tokens: 0, seed: "", ended: false};
  const ticking = setInterval(() => { if (!seen.ended) soFar(seen); }, 200);
  $("answer").replaceChildren();
  $("phases").hidden = true;
  outcome("Sent.");
  soFar(seen);
  busyWith(true);
  try {
    for await (const message of messages(running.signal)) take(message, seen);
    if (!seen.ended) outcome("The server went away before the end.", true);
  } catch {
    if (running.signal.aborted) outcome(`Stopped. The server was told to stop computing; it made at least ${number(seen.tokens)} tokens.`);
    else outcome("The server cannot be reached.", true);
  } finally {
    clearInterval(ticking);
    running = null;
    busyWith(false);
  }
}

function busyWith(answering) {
  const onStop = document.activeElement === $("stop");
  $("send").disabled = answering;
  $("stop").disabled = !answering;
  if (onStop && !answering) $("send").focus();
  $("answer").setAttribute("aria-busy", answering);
  $("play").classList.toggle("streaming", answering);
}

const stop = () => running?.abort();
$("play").addEventListener("submit", (event) => { event.preventDefault(); play(); });
$("stop").addEventListener("click", stop);
$("play").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("play").requestSubmit(); }
  if (event.key === "Escape") stop();
});
refresh();
