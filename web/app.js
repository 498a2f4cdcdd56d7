// The page: asks the API, shows the flame graph in a sandbox, keeps what is asked in the address.
// What comes from the API is only ever put into the document as text.

const $ = (id) => document.getElementById(id);
const DEFAULTS = { query: "cpu", from: "-15m", until: "now", by: "", kernel: "true" };
const FORMATS = ["folded", "svg", "html", "pprof", "speedscope", "json"];
const EXAMPLES = ["cpu", 'cpu{service="', 'cpu{comm="', 'cpu{node=~"', 'cpu{container!=""}'];
const UNITS_S = { s: 1, m: 60, h: 3600, d: 86400, w: 604800 };
const RETRY_MS = 3000;
const NUMBER = new Intl.NumberFormat("en");

let asked = { ...DEFAULTS };
let running = null;
let retry = 0;
let labelNames = [];
const labelValues = new Map();

// --- what is asked: form, address, and back ---------------------------------------------------------------------

function fromAddress() {
  const given = new URLSearchParams(location.search);
  return Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, given.get(name) ?? value]));
}

function fromForm() {
  const range = $("range").value;
  const custom = range === "custom";
  return {
    query: $("query").value.trim() || DEFAULTS.query,
    from: custom ? $("from").value.trim() || DEFAULTS.from : range,
    until: custom ? $("until").value.trim() || DEFAULTS.until : "now",
    by: $("by").value.replace(/\s/g, ""),
    kernel: String($("kernel").checked),
  };
}

function toForm(wanted) {
  const presets = [...$("range").options].map((option) => option.value);
  const preset = wanted.until === "now" && presets.includes(wanted.from);
  $("query").value = wanted.query;
  $("range").value = preset ? wanted.from : "custom";
  $("custom").hidden = preset;
  $("from").value = wanted.from;
  $("until").value = wanted.until;
  $("by").value = wanted.by;
  $("kernel").checked = wanted.kernel !== "false";
}

function addressOf(wanted) {
  const differing = Object.entries(wanted).filter(([name, value]) => value !== DEFAULTS[name]);
  const text = new URLSearchParams(differing).toString();
  return text ? `?${text}` : location.pathname;
}

function ask(wanted, { push = true } = {}) {
  asked = wanted;
  toForm(wanted);
  if (push && addressOf(wanted) !== location.search) history.pushState(null, "", addressOf(wanted));
  document.title = wanted.query === "cpu" ? "fleetflame" : `${wanted.query} · fleetflame`;
  load();
}

// --- answers --------------------------------------------------------------------------------------------------------

async function fetchJson(path, params, signal) {
  const answer = await fetch(`${path}?${new URLSearchParams(params)}`, { signal });
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error.message), { hint: body.error.hint, status: answer.status });
  return body;
}

// "-15m" is another moment at each request: everything shown and downloaded is of one moment.
function frozen(wanted) {
  const now = Date.now() / 1000;
  const moment = (text) => {
    const found = /^(?:now)?(?:([-+])((?:\d+[smhdw])+))?$/.exec(text);
    if (!found || !text) return text;
    const seconds = [...(found[2] ?? "").matchAll(/(\d+)([smhdw])/g)].reduce((sum, part) => sum + part[1] * UNITS_S[part[2]], 0);
    return (now + (found[1] === "-" ? -seconds : seconds)).toFixed(3);
  };
  return { ...wanted, from: moment(wanted.from), until: moment(wanted.until) };
}

async function load() {
  running?.abort();
  clearTimeout(retry);
  running = new AbortController();
  const { signal } = running;
  const params = frozen(asked);
  document.body.classList.add("busy");
  try {
    const top = await fetchJson("api/v1/top", { ...params, limit: 25 }, signal);
    $("trouble").hidden = true;
    $("query").classList.remove("wrong");
    showSummary(top);
    showTop(top);
    showDownloads(params, top.samples > 0);
    $("graph").hidden = top.samples === 0;
    $("side").hidden = top.samples === 0;
    $("empty").hidden = top.samples > 0;
    if (top.samples > 0) draw(profileUrl(params, "html"));
    const nodes = await loadAround(params, signal);
    if (top.samples === 0) showEmpty(nodes);
  } catch (error) {
    if (error.name !== "AbortError") showTrouble(error);
  } finally {
    if (!signal.aborted) document.body.classList.remove("busy");
  }
}

// In place of what it shows, so that "back" is about questions and not about pictures.
function draw(url) {
  $("graph").classList.add("drawing");
  $("graph").contentWindow.location.replace(url);
}

function profileUrl(params, format, download = false) {
  const url = new URL("api/v1/profile", document.baseURI);
  url.search = new URLSearchParams({ ...params, format, ...(download ? { download: "true" } : {}) });
  return url.href;
}

function showTrouble(error) {
  const reached = error instanceof TypeError ? "The aggregator does not answer. Is it running?" : error.message;
  $("trouble").textContent = error.hint ? `${reached}\n${error.hint}` : reached;
  $("trouble").hidden = false;
  $("query").classList.toggle("wrong", error.message.includes("selector"));
  for (const id of ["facts", "graph", "side", "empty"]) $(id).hidden = true;
}

function showSummary(top) {
  $("facts").hidden = false;
  const share = (samples) => percent(samples / Math.max(1, top.samples));
  const parts = [
    element("b", `${NUMBER.format(top.samples)} samples`),
    element("b", cpuTime(top.nanoseconds)),
    told(`${share(top.whole)} whole`, "stacks with every frame, each with a name"),
    told(`${share(top.truncated)} truncated`, "stacks that lack frames; the flame graph says why, at the root side"),
    told(`${share(top.unsymbolized)} unnamed`, "stacks with a frame whose name is not known; symbols that arrive later name it"),
  ];
  $("summary").replaceChildren(...(top.samples ? parts.flatMap((part, at) => (at ? [" · ", part] : [part])) : ["0 samples"]));
  $("meter").hidden = top.samples === 0;
  for (const kind of ["whole", "truncated", "unsymbolized"]) $("meter").querySelector(`.${kind}`).style.width = share(top[kind]);
}

function showTop(top) {
  $("top").tBodies[0].replaceChildren(...top.rows.map((row) => {
    const line = document.createElement("tr");
    const name = element("td", row.name);
    name.title = row.name;
    line.append(
      element("td", percent(row.self / top.samples), "number"),
      element("td", percent(row.total / top.samples), "number"),
      name,
    );
    return line;
  }));
}

function showDownloads(params, some) {
  const links = FORMATS.map((format) => {
    const link = element("a", format);
    link.href = profileUrl(params, format, true);
    return link;
  });
  $("downloads").replaceChildren(element("span", "Download"), ...links);
  $("downloads").hidden = !some;
}

function showEmpty(nodes) {
  clearTimeout(retry);
  const option = [...$("range").options].find((each) => each.value === asked.from && asked.until === "now");
  const range = option ? `in the ${option.textContent}` : `from ${asked.from} until ${asked.until}`;
  $("verdict").textContent = nodes.length ? "No samples here" : "Waiting for the first samples";
  $("reason").textContent = nodes.length
    ? `Nothing that matches ${asked.query} was sampled ${range}.`
    : "No node has sent any yet. They arrive about ten seconds after an agent starts; this page looks again by itself.";
  if (!nodes.length) retry = setTimeout(load, RETRY_MS);
  const ways = [];
  if (nodes.length && asked.query !== "cpu") ways.push(["everything in this time range", { ...asked, query: "cpu" }]);
  if (nodes.length && asked.from !== "-24h") ways.push(["the same in the last 24 hours", { ...asked, from: "-24h", until: "now" }]);
  $("ways").replaceChildren(...ways.map(([text, wanted]) => {
    const item = document.createElement("li");
    item.append("Try ", button(text, () => ask(wanted)));
    return item;
  }));
}

async function loadAround(params, signal) {
  const range = { from: params.from, until: params.until };
  const [nodes, labels] = await Promise.all([
    fetchJson("api/v1/nodes", {}, signal), fetchJson("api/v1/labels", range, signal),
  ]);
  showNodes(nodes.nodes);
  labelNames = labels.labels;
  labelValues.clear();
  $("labels").replaceChildren(...labelNames.map(choice));
  suggest();
  return nodes.nodes;
}

function showNodes(nodes) {
  $("node-count").textContent = NUMBER.format(nodes.length);
  $("nodes").tBodies[0].replaceChildren(...nodes.slice(0, 200).map((node) => {
    const line = document.createElement("tr");
    const name = document.createElement("td");
    name.append(button(node.node, () => ask({ ...asked, query: withMatcher(asked.query, "node", node.node) })));
    const seconds = Math.max(0, Date.now() / 1000 - Date.parse(node.last_seen) / 1000);
    line.append(name, element("td", `${ago(seconds)} ago`, seconds > 60 ? "stale" : ""));
    return line;
  }));
}

// --- suggestions: the whole text that the input would hold, which is what a datalist can offer ----------------------

function suggest() {
  const text = $("query").value;
  const value = /^(.*[{,]\s*([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*")([^"]*)$/.exec(text);
  const name = /^(.*[{,]\s*)([a-zA-Z_]\w*)?$/.exec(text);
  if (value) return suggestValues(value[1], value[2]);
  const offers = name && text.includes("{") ? labelNames.map((label) => `${name[1]}${label}="`) : EXAMPLES;
  $("suggestions").replaceChildren(...offers.map(choice));
}

async function suggestValues(before, label) {
  if (!labelValues.has(label)) {
    const { from, until } = frozen(asked);
    const found = fetchJson(`api/v1/labels/${encodeURIComponent(label)}`, { from, until }).catch(() => ({ values: [] }));
    labelValues.set(label, found);
  }
  const { values } = await labelValues.get(label);
  $("suggestions").replaceChildren(...values.slice(0, 500).map((each) => choice(`${before}${escaped(each)}"}`)));
}

function withMatcher(query, label, value) {
  const matcher = `${label}="${escaped(value)}"`;
  const former = new RegExp(`${label}\\s*(?:=~|!~|!=|=)\\s*"(?:[^"\\\\]|\\\\.)*"`);
  if (former.test(query)) return query.replace(former, () => matcher);
  const found = /^\s*([\w:]*)\s*(?:\{(.*)\})?\s*$/s.exec(query);
  if (!found) return `cpu{${matcher}}`;
  const others = (found[2] ?? "").trim().replace(/,$/, "");
  return `${found[1] || "cpu"}{${others ? `${others}, ` : ""}${matcher}}`;
}

// --- small things -----------------------------------------------------------------------------------------------------

const escaped = (text) => text.replace(/[\\"]/g, "\\$&").replace(/\n/g, "\\n");
const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.0995 ? 1 : share === 0 || share === 1 ? 0 : 1)}%`;

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function told(text, title) {
  const made = element("span", text);
  made.title = title;
  return made;
}

function choice(value) {
  const made = document.createElement("option");
  made.value = value;
  return made;
}

function button(text, act) {
  const made = element("button", text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

function cpuTime(nanoseconds) {
  const seconds = nanoseconds / 1e9;
  if (seconds < 120) return `${seconds.toFixed(1)} s of CPU time`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)} min of CPU time`;
  return `${NUMBER.format(Math.round(seconds / 360) / 10)} h of CPU time`;
}

function ago(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

// --- moving in time -------------------------------------------------------------------------------------------------

function moved(by, stretch) {
  const { from, until } = frozen(asked);
  const [start, end] = [from, until].map((text) => (/^[\d.]+$/.test(text) ? Number(text) : Date.parse(text) / 1000));
  if (!(end > start)) return asked;
  const length = end - start;
  const latest = Math.min(end + by * length, Date.now() / 1000);
  const iso = (seconds) => new Date(seconds * 1000).toISOString().replace(/\.\d+Z$/, "Z");
  return { ...asked, from: iso(latest - length * stretch), until: iso(latest) };
}

const KEYS = {
  "/": () => { $("query").focus(); $("query").select(); },
  r: () => load(),
  "[": () => ask(moved(-1, 1)),
  "]": () => ask(moved(1, 1)),
  "-": () => ask(moved(0, 2)),
  k: () => ask({ ...asked, kernel: String(asked.kernel === "false") }),
  n: () => ask({ ...asked, by: asked.by === "node" ? "" : "node" }),
  g: () => $("graph").focus(),
  "?": () => $("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  if (event.key === "Escape") document.activeElement.blur();
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) return;
  if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

$("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(fromForm()); });
$("query").addEventListener("input", suggest);
$("range").addEventListener("change", () => {
  $("custom").hidden = $("range").value !== "custom";
  if ($("custom").hidden) ask(fromForm());
  else $("from").focus();
});
$("kernel").addEventListener("change", () => ask(fromForm()));
$("by").addEventListener("change", () => ask(fromForm()));
$("graph").addEventListener("load", () => $("graph").classList.remove("drawing"));
$("help").addEventListener("click", KEYS["?"]);
window.addEventListener("popstate", () => ask(fromAddress(), { push: false }));

ask(fromAddress(), { push: false });
