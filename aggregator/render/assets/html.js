// Draws the tree that the file carries, and answers to pointer and keys. Everything is computed once per change and drawn
// on a canvas as large as what is seen; frames narrower than a pixel share one. Nothing is loaded and nothing is sent.
"use strict";
(async () => {
  // A page around the picture says what it is of and how complete.
  document.documentElement.classList.toggle("framed", window.parent !== window);
  const ROW = 18, FONT = '11px ui-monospace, "SF Mono", SFMono-Regular, Menlo, "Cascadia Mono", Consolas, "DejaVu Sans Mono", monospace';
  const byId = (id) => document.getElementById(id);
  const frame = byId("frame"), canvas = byId("canvas"), status = byId("status"), tip = byId("tip"), input = byId("search"), result = byId("result"), functions = byId("functions");
  const context = canvas.getContext("2d");
  const data = JSON.parse(byId("data").textContent);
  const { names, levels, classes, totals, timed, unit, labels } = data;

  // Columns of numbers, 7 bits a byte, the last byte of each without its high bit; all compressed as one.
  async function unpack(text) {
    const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    let at = 0;
    return (size, column = new Float64Array(size)) => {
      for (let i = 0; i < size; i++) {
        let value = 0, scale = 1, byte;
        do { byte = bytes[at++]; value += (byte & 127) * scale; scale *= 128; } while (byte > 127);
        column[i] = value;
      }
      return column;
    };
  }
  const next = await unpack(data.columns);
  const size = levels[levels.length - 1], depths = levels.length - 1;
  const parent = next(size, new Int32Array(size)), item = next(size, new Int32Array(size)), color = next(size, new Uint8Array(size));
  const start = next(size), own = next(size), counts = totals.map(() => next(size));
  const weight = unit ? counts[0].map((count) => count * unit) : next(size);
  const shares = labels.map(() => next(size));
  const depth = new Int32Array(size), childFrom = new Int32Array(size).fill(-1), childTo = new Int32Array(size).fill(-1);
  // Parents come as steps from the parent of the node before; starts as gaps after the elder sibling or in the parent.
  for (let level = 0; level < depths; level++) {
    for (let i = levels[level], above = level ? levels[level - 1] : 0; i < levels[level + 1]; i++) {
      depth[i] = level;
      if (!level) { parent[i] = -1; continue; }
      above += parent[i];
      parent[i] = above;
      if (childFrom[above] < 0) { childFrom[above] = i; start[i] += start[above]; }
      else start[i] += start[i - 1] + weight[i - 1];
      childTo[above] = i + 1;
    }
  }

  let flame = data.flame, zoomed = 0, left = 0, span = weight[0] || 1, hovered = -1, focused = -1, hits = null, hitList = [], under = null, theme, width = 0, viewHeight = 0, character = 6.6;
  const rows = depths;
  const dark = matchMedia("(prefers-color-scheme: dark)"), still = matchMedia("(prefers-reduced-motion: reduce)");
  const nameOf = (i) => (i ? names[item[i]] : "all");
  const percent = (part, whole) => { if (!part || !whole) return "0%"; if (part === whole) return "100%"; const p = (100 * part) / whole; return p < 0.01 ? "<0.01%" : p > 99.99 ? ">99.99%" : p.toFixed(2) + "%"; };
  const number = (n) => n.toLocaleString("en-US");
  const seconds = (ns) => { for (const [unit, in_] of [["h", 3.6e12], ["min", 6e10], ["s", 1e9]]) if (ns >= in_) { const n = ns / in_; return `${n >= 100 ? number(Math.round(n)) : +n.toPrecision(3)} ${unit}`; } return `${+(ns / 1e6).toPrecision(3)} ms`; };
  const samples = (n) => (n === 1 ? "1 sample" : `${number(n)} samples`);

  // What is said of a frame: one line for the status, several for the tooltip.
  function words(i) {
    if (data.diff) {
      const [before, after] = shares.map((column) => column[i] / 1e5), change = after - before;
      const sign = change > 0 ? "+" : change < 0 ? "−" : "";
      return [`${before.toFixed(2)}% → ${after.toFixed(2)}% (${sign}${Math.abs(change).toFixed(2)} points)`, `${number(counts[0][i])} → ${number(counts[1][i])} samples`];
    }
    const lines = [`${percent(weight[i], weight[0])} of all, ${samples(counts[0][i])}${timed ? ", " + seconds(weight[i]) : ""}`];
    lines.push(own[i] === counts[0][i] ? "all of it in itself" : own[i] ? `${samples(own[i])} in itself` : "none in itself");
    if (zoomed && inside(i, zoomed) && i !== zoomed) lines.push(`${percent(weight[i], weight[zoomed])} of what is zoomed`);
    return lines;
  }
  function inside(i, top) { while (depth[i] > depth[top]) i = parent[i]; return i === top; }

  function readTheme() {
    const look = getComputedStyle(document.documentElement), value = (name) => look.getPropertyValue(name).trim();
    const fills = dark.matches ? data.dark : data.light;
    theme = { fills: classes.map((name) => fills[name]), ink: dark.matches ? data.ink.dark : data.ink.light, pale: dark.matches ? data.ink.pale : data.ink.light, background: value("--bg"), hit: value("--hit"), accent: value("--accent"), outline: value("--ink") };
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const pen = tile.getContext("2d");
    const at = classes.indexOf("t0");
    if (at >= 0) {
      pen.fillStyle = theme.fills[at]; pen.fillRect(0, 0, 8, 8);
      pen.strokeStyle = dark.matches ? "#94979e" : "#9aa0a8"; pen.lineWidth = 1.6;
      for (const shift of [-8, 0, 8]) { pen.beginPath(); pen.moveTo(shift - 2, 10); pen.lineTo(shift + 10, -2); pen.stroke(); }
      theme.fills[at] = context.createPattern(tile, "repeat");
    }
    theme.paleClass = classes.map((name) => "rcl".includes(name[0]));
    for (const swatch of document.querySelectorAll("[data-color]")) swatch.style.background = fills[swatch.dataset.color];
  }

  const rowTop = (level) => (flame ? (rows - 1 - level) * ROW : level * ROW) - frame.scrollTop;
  function firstVisible(level, x) {
    let low = levels[level], high = levels[level + 1];
    while (low < high) { const middle = (low + high) >> 1; if (start[middle] + weight[middle] <= x) low = middle + 1; else high = middle; }
    return low;
  }

  function draw() {
    context.fillStyle = theme.background;
    context.fillRect(0, 0, width, viewHeight);
    context.font = FONT;
    context.textBaseline = "alphabetic";
    const scale = width / span, right = left + span;
    for (let level = 0; level < rows; level++) {
      const y = rowTop(level);
      if (y + ROW <= 0 || y >= viewHeight) continue;
      let covered = -1;
      for (let i = firstVisible(level, left); i < levels[level + 1] && start[i] < right; i++) {
        let x = (start[i] - left) * scale, end = x + weight[i] * scale;
        if (x < 0) x = 0;
        if (end > width) end = width;
        if (end - x < 1) {
          // The first of several frames in one pixel stands for them.
          const pixel = Math.floor(x);
          if (pixel <= covered) continue;
          covered = pixel;
          paint(i, pixel, y, 1, Math.min(1, 0.35 + end - x));
        } else {
          const from = Math.round(x), to = Math.max(Math.round(end), from + 1);
          covered = to - 1;
          paint(i, from, y, to - from, 1);
        }
      }
    }
    outline(hovered, theme.outline, 1);
    if (document.activeElement === canvas) outline(focused, theme.accent, 2);
  }
  function paint(i, x, y, wide, strength) {
    const above = depth[i] < depth[zoomed], hit = hits && hits[item[i]] && i;
    context.globalAlpha = strength * (hits && !hit ? 0.3 : above ? 0.55 : 1);
    context.fillStyle = hit ? theme.hit : theme.fills[color[i]];
    const inner = wide > 3 ? wide - 1 : wide;
    if (inner >= 8) { context.beginPath(); context.roundRect(x, y, inner, ROW - 1, 2); context.fill(); } else context.fillRect(x, y, inner, ROW - 1);
    const room = Math.floor((wide - 8) / character);
    if (room < 2) return;
    const name = nameOf(i);
    context.globalAlpha = hits && !hit ? 0.65 : above ? 0.8 : 1;
    context.fillStyle = hit ? data.ink.light : theme.paleClass[color[i]] ? theme.pale : theme.ink;
    context.fillText(name.length <= room ? name : name.slice(0, room - 1) + "…", x + 4, y + 12.5, wide - 6);
    context.globalAlpha = 1;
  }
  function outline(i, stroke, thick) {
    context.globalAlpha = 1;
    if (i < 0) return;
    const scale = width / span, x = Math.max((start[i] - left) * scale, 0), end = Math.min((start[i] + weight[i] - left) * scale, width), y = rowTop(depth[i]);
    if (end < 0 || x > width) return;
    context.strokeStyle = stroke; context.lineWidth = thick;
    context.strokeRect(Math.round(x) + thick / 2, y + thick / 2, Math.max(end - x - 1 - thick, 1), ROW - 1 - thick);
  }
  let waiting = false;
  function redraw() { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } }

  function fit() {
    byId("spacer").style.height = `${rows * ROW}px`;
    width = frame.clientWidth;
    viewHeight = Math.min(frame.clientHeight, rows * ROW);
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(viewHeight * ratio);
    canvas.style.height = `${viewHeight}px`;
    byId("spacer").style.marginTop = `-${viewHeight}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = FONT;
    character = context.measureText("x".repeat(50)).width / 50;
    draw();
  }

  // Zooming moves in a sixth of a second, unless the reader wants no motion.
  let motion = 0;
  function zoom(i, jump) {
    zoomed = i; focused = i;
    const from = [left, span], to = [start[i], weight[i] || 1], begun = performance.now(), run = ++motion;
    byId("reset").disabled = !i && !hits;
    say(i ? i : -1);
    reveal(i);
    if (jump || still.matches) { [left, span] = to; draw(); return; }
    (function step(now) {
      if (run !== motion) return;
      const t = Math.min(1, Math.max(0, now - begun) / 160), ease = 1 - (1 - t) ** 3;
      left = from[0] + (to[0] - from[0]) * ease; span = from[1] + (to[1] - from[1]) * ease;
      draw();
      if (t < 1) requestAnimationFrame(step);
    })(begun);
  }
  function reveal(i) {
    const top = flame ? (rows - 1 - depth[i]) * ROW : depth[i] * ROW;
    if (top < frame.scrollTop) frame.scrollTop = top;
    else if (top + ROW > frame.scrollTop + viewHeight) frame.scrollTop = top + ROW - viewHeight;
  }
  function say(i) {
    status.textContent = "";
    if (i < 0) return;
    const name = document.createElement("b");
    name.textContent = nameOf(i);
    status.append(name, ` — ${words(i).join(", ")}`);
  }

  function at(event) {
    const box = canvas.getBoundingClientRect(), y = event.clientY - box.top + frame.scrollTop;
    const level = flame ? rows - 1 - Math.floor(y / ROW) : Math.floor(y / ROW);
    if (level < 0 || level >= rows) return -1;
    const x = left + ((event.clientX - box.left) / width) * span, slack = span / width / 2;
    const i = firstVisible(level, x - slack);
    return i < levels[level + 1] && start[i] <= x + slack ? i : -1;
  }
  function showTip(i, event) {
    tip.style.visibility = i < 0 ? "hidden" : "visible";
    if (i < 0) return;
    if (tip.shown !== i || tip.zoomed !== zoomed) {
      const name = document.createElement("b");
      name.textContent = nameOf(i);
      tip.replaceChildren(name, ...words(i).map((line) => Object.assign(document.createElement("span"), { textContent: line })));
      tip.shown = i; tip.zoomed = zoomed;
    }
    const box = tip.getBoundingClientRect();
    const x = Math.max(8, Math.min(event.clientX + 14, innerWidth - box.width - 8));
    const y = event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 18;
    tip.style.transform = `translate(${x}px, ${Math.max(4, y)}px)`;
  }
  canvas.addEventListener("mousemove", (event) => {
    const i = at(event);
    frame.classList.toggle("over", i >= 0);
    showTip(i, event);
    if (i !== hovered) { hovered = i; say(i); redraw(); }
  });
  canvas.addEventListener("mouseleave", () => { hovered = -1; showTip(-1); say(document.activeElement === canvas ? focused : -1); redraw(); });
  canvas.addEventListener("click", (event) => { const i = at(event); if (i >= 0) { showTip(-1); zoom(i); } });
  canvas.addEventListener("focus", () => { if (focused < 0) focused = zoomed; say(focused); redraw(); });
  canvas.addEventListener("blur", redraw);
  frame.addEventListener("scroll", () => { hovered = -1; showTip(-1); draw(); });

  // Search: a regular expression, without regard to case unless it has capitals. Frames below a match count once.
  function search(pattern, exact) {
    input.classList.remove("wrong");
    let test = null;
    if (exact !== undefined) test = (name) => name === exact;
    else if (pattern) {
      try { const expression = new RegExp(pattern, /\p{Lu}/u.test(pattern) ? "u" : "iu"); test = (name) => expression.test(name); }
      catch { input.classList.add("wrong"); result.textContent = "not a regular expression"; return; }
    }
    hits = test && Uint8Array.from(names, (name, n) => (n && test(name) ? 1 : 0));
    hitList = [];
    if (hits) {
      under = new Uint8Array(size);
      let share = 0;
      for (let i = 1; i < size; i++) {
        under[i] = under[parent[i]] || (parent[i] && hits[item[parent[i]]]) ? 1 : 0;
        if (!hits[item[i]]) continue;
        hitList.push(i);
        if (!under[i]) share += weight[i];
      }
      result.textContent = hitList.length ? `${percent(share, weight[0])} in ${number(hitList.length)} frame${hitList.length > 1 ? "s" : ""}` : "no match";
    } else result.textContent = "";
    byId("reset").disabled = !zoomed && !hits;
    draw();
  }
  function reset() { input.value = ""; search(""); if (zoomed) zoom(0); else say(-1); }
  input.addEventListener("input", () => search(input.value));
  byId("reset").addEventListener("click", () => { reset(); canvas.focus({ preventScroll: true }); });
  byId("flip").addEventListener("click", () => { flame = !flame; byId("flip").setAttribute("aria-pressed", String(!flame)); frame.scrollTop = flame ? rows * ROW : 0; draw(); });
  byId("table").addEventListener("click", () => show(functions.hidden));
  function show(list) {
    functions.hidden = !list; frame.hidden = list;
    byId("table").setAttribute("aria-pressed", String(list));
    if (!list) fit();
  }

  const shown = (i) => depth[i] >= depth[zoomed] ? inside(i, zoomed) : inside(zoomed, i);
  function away(i) {
    let best = -1;
    if (childFrom[i] >= 0) for (let c = childFrom[i]; c < childTo[i]; c++) if (shown(c) && (best < 0 || weight[c] > weight[best])) best = c;
    return best;
  }
  function beside(i, step) { const n = i + step; return n >= levels[depth[i]] && n < levels[depth[i] + 1] && shown(n) ? n : -1; }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target === input;
    if (event.key === "Escape") { reset(); show(false); canvas.focus({ preventScroll: true }); return; }
    if (event.key === "/" && !typing) { event.preventDefault(); input.focus(); input.select(); return; }
    if (typing) { if (event.key === "Enter" && hitList.length) { show(false); canvas.focus({ preventScroll: true }); go(hitList[0]); } return; }
    if ((event.key === "n" || event.key === "N") && hitList.length) {
      const here = hitList.indexOf(focused);
      go(hitList[(here + (event.key === "n" ? 1 : -1) + hitList.length) % hitList.length]);
      return;
    }
    if (event.target !== canvas) return;
    const from = focused < 0 ? zoomed : focused;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); zoom(from); return; }
    if (event.key === "Backspace") { if (zoomed) zoom(parent[zoomed]); return; }
    const steps = { ArrowUp: flame ? away : (i) => parent[i], ArrowDown: flame ? (i) => parent[i] : away, ArrowLeft: (i) => beside(i, -1), ArrowRight: (i) => beside(i, 1), Home: () => 0 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    go(steps[event.key](from));
  });
  function go(i) {
    if (i < 0) return;
    if (!shown(i)) { zoom(parent[i] < 0 ? 0 : parent[i], true); }
    focused = i; reveal(i); say(i); redraw();
  }

  // The table: sorting by a column, and finding a function in the graph.
  const body = functions.querySelector("tbody");
  functions.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const head = button.closest("th");
    if (!head) { input.value = ""; search("", button.textContent); show(false); canvas.focus({ preventScroll: true }); return; }
    const column = head.cellIndex;
    for (const each of head.parentNode.cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", "descending");
    const order = [...body.rows].sort((a, b) => b.cells[column].dataset.n - a.cells[column].dataset.n);
    body.append(...order);
  });

  readTheme();
  dark.addEventListener("change", () => { readTheme(); draw(); });
  new ResizeObserver(fit).observe(document.body);
  byId("flip").setAttribute("aria-pressed", String(!flame));
  fit();
  if (flame) { frame.scrollTop = rows * ROW; draw(); }
  document.documentElement.dataset.ready = "1";
})();
