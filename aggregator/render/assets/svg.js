// Makes the picture answer: hover, zoom, search, keys. Without it the picture is complete, only still.
// Geometry is read from the drawn rectangles, so that nothing is in the file twice.
"use strict";
(() => {
  const NS = "http://www.w3.org/2000/svg", HTML = "http://www.w3.org/1999/xhtml";
  const svg = document.documentElement;
  const chart = document.getElementById("chart");
  const { width: WIDTH, pad: PAD, char: CHAR, row: ROW, flame: FLAME } = JSON.parse(svg.dataset.layout);
  const status = document.getElementById("status");
  const make = (name, attributes, parent) => {
    const element = document.createElementNS(NS, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (parent) parent.append(element);
    return element;
  };

  // A frame: element, place as a share of the whole, depth, name, words, and its neighbours in the tree.
  const levels = [];
  for (const group of chart.children) {
    const level = [];
    for (const g of group.children) {
      const [title, rect] = g.children;
      const [name, words] = title.textContent.split("\n");
      const drawn = +rect.getAttribute("width");
      const frame = {
        g, rect, name, words, depth: levels.length, children: [], parent: null,
        x: (+rect.getAttribute("x") - PAD) / (WIDTH - 2 * PAD),
        w: (drawn >= 7 ? drawn + 1 : drawn / 0.875) / (WIDTH - 2 * PAD),
        text: g.children[2] || null,
      };
      title.remove();
      g.frame = frame;
      level.push(frame);
    }
    levels.push(level);
  }
  for (let depth = 1; depth < levels.length; depth++) {
    let at = 0;
    const above = levels[depth - 1];
    for (const frame of levels[depth]) {
      const middle = frame.x + frame.w / 2;
      while (at + 1 < above.length && above[at].x + above[at].w < middle) at++;
      frame.parent = above[at];
      above[at].children.push(frame);
    }
  }
  const root = levels[0][0];
  root.x = 0;
  root.w = 1;
  let zoomed = root, focused = null, width = WIDTH, matches = null;
  const heading = svg.querySelector("svg > title");
  if (heading) { document.title = heading.textContent; heading.remove(); }

  const within = (frame, top) => { while (frame && frame.depth > top.depth) frame = frame.parent; return frame === top; };

  function draw() {
    const inner = width - 2 * PAD, scale = inner / zoomed.w;
    for (const level of levels) for (const frame of level) {
      let left = (frame.x - zoomed.x) * scale, wide = frame.w * scale;
      const above = frame.depth < zoomed.depth;
      if (above) {
        if (!within(zoomed, frame)) { frame.g.setAttribute("class", "off"); continue; }
        left = 0; wide = inner;
      } else if (left >= inner - 0.01 || left + wide <= 0.01 || wide < 0.08 || (frame.depth <= zoomed.depth && frame !== zoomed)) {
        frame.g.setAttribute("class", "off");
        continue;
      }
      const color = frame.color ??= frame.g.getAttribute("class");
      frame.g.setAttribute("class", color + (above ? " above" : "") + (frame.hit ? " hit" : ""));
      if (wide > 3) { const end = Math.round(left + wide); left = Math.round(left); wide = end - left; }
      frame.left = PAD + left; frame.wide = wide;
      frame.rect.setAttribute("x", frame.left);
      frame.rect.setAttribute("width", wide - Math.min(1, wide / 8));
      const room = Math.floor((wide - 8) / CHAR);
      if (room >= 2) {
        frame.text ??= make("text", { y: frame.rect.getAttribute("height") - 5 }, frame.g);
        frame.text.setAttribute("x", frame.left + 4);
        const shown = frame.name.length <= room ? frame.name : frame.name.slice(0, room - 1) + "…";
        if (frame.text.textContent !== shown) frame.text.textContent = shown;
      } else if (frame.text) { frame.text.remove(); frame.text = null; }
    }
    outline();
    reset.hidden = zoomed === root && !matches;
  }
  // Colours are read before any class changes.
  for (const level of levels) for (const frame of level) frame.color = frame.g.getAttribute("class");

  const body = document.getElementById("body");
  const focusBox = make("rect", { id: "focus", rx: 2, visibility: "hidden" }, body);
  function outline() {
    const seen = focused && focused.g.getAttribute("class") !== "off" && document.activeElement === chart;
    focusBox.setAttribute("visibility", seen ? "visible" : "hidden");
    if (!seen) return;
    const y = focused.g.parentNode.transform.baseVal[0].matrix.f;
    const place = { x: focused.left, y, width: Math.max(focused.wide - 1, 2), height: focused.rect.getAttribute("height") };
    for (const key in place) focusBox.setAttribute(key, place[key]);
  }
  function say(frame) { status.textContent = frame ? `${frame.name} — ${frame.words}` : ""; }
  function zoom(frame) { zoomed = frame; focused = frame; hideTip(); draw(); say(frame === root ? null : frame); }

  // Tooltip: name, then numbers, kept inside the picture.
  const tip = make("g", { id: "tip", visibility: "hidden" }, svg);
  const tipBox = make("rect", {}, tip), tipName = make("text", { x: 10, y: 19 }, tip), tipWords = make("text", { x: 10, y: 36, class: "quiet" }, tip);
  function hideTip() { tip.setAttribute("visibility", "hidden"); }
  function showTip(frame, event) {
    const limit = Math.floor((width - 40) / 7);
    tipName.textContent = frame.name.length > limit ? frame.name.slice(0, limit - 1) + "…" : frame.name;
    tipWords.textContent = frame.words;
    const wide = Math.max(tipName.getComputedTextLength(), tipWords.getComputedTextLength()) + 20;
    tipBox.setAttribute("width", wide); tipBox.setAttribute("height", 46);
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const x = Math.max(4, Math.min(point.x + 12, width - wide - 4)), below = point.y + 18;
    const y = below + 50 > height ? point.y - 58 : below;
    tip.setAttribute("transform", `translate(${x} ${y})`);
    tip.setAttribute("visibility", "visible");
  }

  // Search: a regular expression, without regard to case unless it has capitals. Matches below a match count once.
  function search(pattern) {
    let expression = null;
    input.classList.remove("wrong");
    if (pattern) {
      try { expression = new RegExp(pattern, /\p{Lu}/u.test(pattern) ? "u" : "iu"); }
      catch { input.classList.add("wrong"); result.textContent = "not a regular expression"; return; }
    }
    matches = expression && [];
    let share = 0, count = 0;
    for (const level of levels) for (const frame of level) {
      frame.hit = !!expression && frame !== root && expression.test(frame.name);
      frame.under = !!frame.parent && (frame.parent.hit || frame.parent.under);
      if (frame.hit) { count++; matches.push(frame); if (!frame.under) share += frame.w; }
    }
    svg.classList.toggle("searching", !!expression);
    result.textContent = expression ? (count ? `${(100 * share).toFixed(2)}% in ${count.toLocaleString("en")} frame${count > 1 ? "s" : ""}` : "no match") : "";
    draw();
  }

  const holder = make("foreignObject", { y: 10, height: 34 }, svg);
  const bar = document.createElementNS(HTML, "div");
  bar.className = "bar";
  const element = (name, properties) => { const made = Object.assign(document.createElementNS(HTML, name), properties); bar.append(made); return made; };
  const result = element("span", {});
  result.setAttribute("role", "status");
  const input = element("input", { type: "search", placeholder: "Search (regex)   /", spellcheck: false });
  input.setAttribute("aria-label", "Search frames by regular expression");
  const reset = element("button", { type: "button", textContent: "Reset", hidden: true });
  holder.append(bar);
  input.addEventListener("input", () => search(input.value));
  const clear = () => { input.value = ""; zoomed = root; search(""); say(null); };
  reset.addEventListener("click", () => { clear(); chart.focus(); });

  const frameOf = (event) => event.target.closest?.("#chart g g")?.frame;
  chart.addEventListener("click", (event) => { const frame = frameOf(event); if (frame) zoom(frame); });
  chart.addEventListener("mousemove", (event) => { const frame = frameOf(event); if (frame) { showTip(frame, event); say(frame); } else hideTip(); });
  chart.addEventListener("mouseleave", () => { hideTip(); say(focused !== root && document.activeElement === chart ? focused : null); });
  chart.addEventListener("focus", () => { focused ??= zoomed; outline(); say(focused); });
  chart.addEventListener("blur", outline);

  const shown = (frame) => frame && frame.g.getAttribute("class") !== "off";
  const move = {
    out: (frame) => frame.children.filter(shown).reduce((best, each) => (!best || each.w > best.w ? each : best), null),
    in: (frame) => frame.parent,
    side: (frame, step) => { const level = levels[frame.depth]; let at = level.indexOf(frame); do at += step; while (level[at] && !shown(level[at])); return level[at]; },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target === input;
    if (event.key === "Escape") { clear(); chart.focus(); return; }
    if (event.key === "/" && !typing) { event.preventDefault(); input.focus(); input.select(); return; }
    if (typing) { if (event.key === "Enter" && matches?.length) { chart.focus(); focused = matches[0]; outline(); say(focused); } return; }
    if ((event.key === "n" || event.key === "N") && matches?.length) {
      const at = matches.indexOf(focused), step = event.key === "n" ? 1 : -1;
      focused = matches[(at + step + matches.length) % matches.length];
      if (!shown(focused)) zoom(focused);
    } else if (event.target !== chart) return;
    else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); if (focused) zoom(focused); return; }
    else if (event.key === "Backspace") { if (zoomed.parent) zoom(zoomed.parent); return; }
    else {
      const at = focused ?? zoomed;
      const next = { ArrowUp: FLAME ? move.out : move.in, ArrowDown: FLAME ? move.in : move.out, ArrowLeft: (f) => move.side(f, -1), ArrowRight: (f) => move.side(f, 1), Home: () => root }[event.key]?.(at);
      if (!next) return;
      event.preventDefault();
      focused = next;
    }
    outline();
    say(focused);
    focused.g.scrollIntoView?.({ block: "nearest" });
  });

  // The picture is as wide as the window; its height is the tree's, and what the lines above it need.
  const plain = +svg.getAttribute("height");
  let height = plain;
  const title = svg.querySelector(".title"), facts = [...svg.querySelectorAll(".fact tspan")], keys = [...svg.querySelectorAll(".key")];
  function wrapHead() {
    const end = width - PAD;
    let x = PAD, y = 51;
    for (const fact of facts) {
      const wide = fact.getComputedTextLength();
      const fresh = x > PAD && x + wide > end + 20;
      if (fresh) { x = PAD; y += 17; fact.setAttribute("x", x); fact.setAttribute("y", y); }
      else { fact.removeAttribute("x"); fact.removeAttribute("y"); }
      x += wide;
    }
    x = PAD; y += 10;
    for (const key of keys) {
      const wide = 16 + key.lastChild.getComputedTextLength();
      if (x > PAD && x + wide > end) { x = PAD; y += 18; }
      key.setAttribute("transform", `translate(${x} ${y})`);
      x += wide + 18;
    }
    const shift = y - 61;
    body.setAttribute("transform", `translate(0 ${shift})`);
    height = plain + shift;
  }
  function fit() {
    width = Math.max(320, window.innerWidth || WIDTH);
    wrapHead();
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const wide = Math.min(430, Math.round(0.6 * width));
    holder.setAttribute("width", wide);
    holder.setAttribute("x", width - PAD - wide);
    const room = Math.floor((width - 2 * PAD - Math.min(wide, 290)) / 9.6), full = title.dataset.full;
    title.textContent = full.length > room ? full.slice(0, Math.max(room - 1, 3)) + "…" : full;
    draw();
  }
  svg.classList.add("live");
  chart.setAttribute("tabindex", "0");
  window.addEventListener("resize", fit);
  fit();
  if (FLAME) window.scrollTo(0, document.documentElement.getBoundingClientRect().height);
})();
