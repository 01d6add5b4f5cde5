// Figures from data: curves with intervals, and the scores of seeds. They can be hovered, read with the arrow keys, and
// zoomed (drag across, or + and -; a double click or Escape shows all again). Text only ever enters as text.

const SVG = "http://www.w3.org/2000/svg";
const known = new WeakMap();
export const chartOf = (place) => known.get(place);

function make(tag, attributes = {}, parent = null, text = null) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  parent?.append(node);
  return node;
}

function element(tag, name = "", parent = null, text = null) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== null) node.textContent = text;
  parent?.append(node);
  return node;
}

export function short(x) {
  if (x === null || !Number.isFinite(x)) return "–";
  for (const [unit, size] of [["B", 1e9], ["M", 1e6], ["k", 1e3]]) if (Math.abs(x) >= size) return `${+(x / size).toPrecision(4)}${unit}`;
  return Math.abs(x) >= 1e-3 || x === 0 ? String(+x.toPrecision(4)) : x.toExponential(1);
}

const exact = (x) => (x === null || x === undefined ? "–" : Math.abs(x) >= 1e-3 || x === 0 ? x.toLocaleString("en", { maximumSignificantDigits: 5 }) : x.toExponential(2));

function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(wanted, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? rough;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(+(i * step).toPrecision(12));
  return found;
}

// Text as lines that are at most so wide.
function lines(text, width) {
  const found = [""];
  for (const word of text.split(" ")) {
    if (found.at(-1) && (found.at(-1).length + word.length + 1) * 6 > width) found.push(word);
    else found.push(`${found.pop()} ${word}`.trim());
  }
  return found;
}

// One pair of axes with its curves.
class Panel {
  constructor(place, labels, bare) {
    this.labels = labels;
    this.bare = bare;
    this.hidden = new Set();
    this.window = null; // the stretch of x that is shown, or all
    this.at = null; // where the cursor is
    this.box = element("div", "plot", place);
    this.heading = element("h3", "", this.box);
    this.svg = make("svg", { tabindex: 0, role: "img" }, this.box);
    this.legend = element("div", "legend", this.box);
    this.scores = make("svg", { class: "scores", role: "img" }, this.box);
    this.tip = element("div", "tip", this.box);
    this.tip.hidden = true;
    this.told = element("p", "sr", this.box);
    this.told.setAttribute("role", "status");
    this.listen();
    new ResizeObserver(() => this.box.clientWidth !== this.drawnAt && this.draw()).observe(this.box);
  }

  set(panel, labels) {
    this.labels = labels;
    this.panel = panel;
    this.heading.textContent = panel.title;
    this.heading.hidden = !panel.title;
    this.draw();
    this.drawLegend();
  }

  get shown() {
    return this.panel.series.filter((one) => !this.hidden.has(one.name));
  }

  // The least and the largest of some columns, where x is between two ends.
  reach(names, left, right) {
    let [low, high] = [Infinity, -Infinity];
    for (const one of this.shown) {
      for (const name of names) {
        one[name]?.forEach((y, i) => {
          if (y === null || one.x[i] < left || one.x[i] > right) return;
          if (y < low) low = y;
          if (y > high) high = y;
        });
      }
    }
    return [low, high];
  }

  extent() {
    let [left, right] = [Infinity, -Infinity];
    for (const one of this.panel.series) {
      for (const x of one.x) {
        if (x < left) left = x;
        if (x > right) right = x;
      }
    }
    if (left > right) return [0, 1];
    if (left > 0 && left < 0.3 * right) left = 0;
    if (left === right) return right > 0 ? [0, 1.02 * right] : [left - 1, right + 1];
    return [left, right];
  }

  draw() {
    if (!this.panel || !this.box.isConnected) return;
    this.drawnAt = this.box.clientWidth;
    const width = Math.max(this.box.clientWidth - (this.bare ? 0 : 24), 200);
    const height = this.bare ? 180 : Math.round(Math.min(380, Math.max(240, width * 0.48)));
    const all = this.extent();
    const [left, right] = this.window ?? all;
    let [low, high] = this.reach(["mean", "min", "max"], left, right);
    // intervals of few seeds can be much wider than what there is to see: they are cut where they would flatten it
    const [lowest, highest] = this.reach(["mean", "low", "high"], left, right);
    const most = high > low ? 0.6 * (high - low) : Infinity;
    [low, high] = [Math.min(low, Math.max(lowest, low - most)), Math.max(high, Math.min(highest, high + most))];
    if (low > high) [low, high] = [0, 1];
    if (low === high) [low, high] = [low - Math.max(Math.abs(low) * 0.05, 0.5), high + Math.max(Math.abs(high) * 0.05, 0.5)];
    const room = 0.05 * (high - low);
    [low, high] = [low - room, high + room];
    const marks = ticks(low, high, this.bare ? 3 : 5);
    const start = 14 + Math.max(...marks.map((y) => short(y).length), 2) * 6.4;
    const [end, top, bottom] = [width - 12, this.bare ? 8 : 26, height - (this.bare ? 22 : 40)];
    const x = (v) => start + ((v - left) / (right - left)) * (end - start);
    const y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
    this.scale = { left, right, start, end, top, bottom, x, y, all };

    const svg = this.svg;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.setAttribute("aria-label", this.summary());
    const id = `clip-${(Panel.count = (Panel.count ?? 0) + 1)}`;
    make("rect", { x: start, y: top - 4, width: end - start + 4, height: bottom - top + 8 }, make("clipPath", { id }, make("defs", {}, svg)));
    for (const v of marks) {
      make("line", { class: "rule", x1: start, x2: end, y1: y(v), y2: y(v) }, svg);
      make("text", { x: start - 8, y: y(v) + 4, "text-anchor": "end" }, svg, short(v));
    }
    make("line", { class: "base", x1: start, x2: end, y1: bottom, y2: bottom }, svg);
    for (const v of ticks(left, right, Math.max(2, Math.floor(width / 110)))) {
      const last = x(v) > end - 10; // half of its label would not fit
      make("text", { x: last ? width : x(v), y: bottom + 16, "text-anchor": last ? "end" : "middle" }, svg, short(v));
    }
    if (!this.bare) {
      make("text", { x: start - 8, y: 12 }, svg, this.labels.y_label);
      make("text", { x: end, y: height - 6, "text-anchor": "end" }, svg, this.labels.x_label);
    }
    const inside = make("g", { "clip-path": `url(#${id})` }, svg);
    for (const one of this.shown) this.area(inside, one, "range", "min", "max");
    for (const one of this.shown) this.area(inside, one, "band", "low", "high");
    for (const one of this.shown) this.line(inside, one);
    this.overlay = make("g", {}, svg);
    this.drawScores(width);
    if (this.at !== null) this.point(this.at);
  }

  // Stretches without a gap.
  stretches(one, names) {
    const found = [[]];
    one.x.forEach((_, i) => {
      if (names.every((name) => one[name]?.[i] !== null && one[name]?.[i] !== undefined)) found.at(-1).push(i);
      else if (found.at(-1).length) found.push([]);
    });
    return found.filter((stretch) => stretch.length);
  }

  area(parent, one, name, low, high) {
    if (!one[low]) return;
    const { x, y } = this.scale;
    for (const stretch of this.stretches(one, [low, high])) {
      const there = stretch.map((i) => `${x(one.x[i]).toFixed(1)},${y(one[high][i]).toFixed(1)}`);
      const back = stretch.map((i) => `${x(one.x[i]).toFixed(1)},${y(one[low][i]).toFixed(1)}`).reverse();
      make("path", { class: `${name} c${one.colour % 8}`, d: `M${there.join("L")}L${back.join("L")}Z` }, parent);
    }
  }

  line(parent, one) {
    const { x, y } = this.scale;
    const dash = one.colour >= 8 ? { "stroke-dasharray": `${2 + 3 * Math.floor(one.colour / 8)} 4` } : {};
    for (const stretch of this.stretches(one, ["mean"])) {
      const places = stretch.map((i) => `${x(one.x[i]).toFixed(1)},${y(one.mean[i]).toFixed(1)}`);
      make("path", { class: `line c${one.colour % 8}`, d: `M${places.join("L")}`, ...dash }, parent);
      if (stretch.length === 1) make("circle", { class: `point c${one.colour % 8}`, cx: x(one.x[stretch[0]]), cy: y(one.mean[stretch[0]]), r: 4 }, parent);
    }
  }

  summary() {
    const ends = this.shown.map((one) => {
      const last = one.mean.findLastIndex((v) => v !== null);
      return last < 0 ? `${one.name}: nothing yet` : `${one.name}: ${exact(one.mean[last])} at ${short(one.x[last])}`;
    });
    return `${this.labels.y_label} over ${this.labels.x_label}. ${ends.join("; ")}. Arrow keys read the curves, plus and minus zoom.`;
  }

  drawLegend() {
    const names = JSON.stringify([this.panel.series.map((one) => one.name), this.window !== null]);
    if (this.bare || names === this.legendOf) return; // a button that has the focus keeps it while curves move
    this.legendOf = names;
    this.legend.replaceChildren();
    if (this.panel.series.length > 1) {
      for (const one of this.panel.series) {
        const button = element("button", `c${one.colour % 8}`, this.legend);
        button.type = "button";
        button.setAttribute("aria-pressed", String(!this.hidden.has(one.name)));
        element("i", "", button);
        button.append(one.name);
        button.addEventListener("click", () => {
          if (!this.hidden.delete(one.name)) this.hidden.add(one.name);
          button.setAttribute("aria-pressed", String(!this.hidden.has(one.name)));
          this.draw();
        });
      }
    }
    if (this.window) {
      const reset = element("button", "reset", this.legend, "Show all");
      reset.type = "button";
      reset.addEventListener("click", () => this.zoom(null));
    } else element("span", "hint", this.legend, "drag to zoom");
  }

  drawScores(width) {
    const rows = this.panel.scores ?? [];
    this.scores.toggleAttribute("hidden", !rows.length);
    this.scores.replaceChildren();
    if (!rows.length) return;
    const [each, top] = [26, 24];
    const label = lines(this.labels.score_label ?? "", width - 24);
    const height = top + each * rows.length + 20 + 14 * label.length;
    const values = rows.flatMap((row) => row.values.filter((v) => v !== null));
    let [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    if (low === high) [low, high] = [low - 1, high + 1];
    const room = 0.06 * (high - low);
    [low, high] = [low - room, high + room];
    const start = Math.min(20 + Math.max(...rows.map((row) => row.name.length)) * 6.2, width * 0.4);
    const x = (v) => start + ((v - low) / (high - low)) * (width - 12 - start);
    const svg = this.scores;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.setAttribute("aria-label", `Every seed’s score. ${rows.map((row) => `${row.name}: interquartile mean ${exact(row.middle)}`).join("; ")}`);
    for (const v of ticks(low, high, Math.max(2, Math.floor(width / 120)))) {
      make("line", { class: "rule", x1: x(v), x2: x(v), y1: top - 8, y2: top + each * rows.length }, svg);
      make("text", { x: x(v), y: top + each * rows.length + 14, "text-anchor": "middle" }, svg, short(v));
    }
    label.forEach((line, i) => make("text", { x: width - 12, y: height - 4 - 14 * (label.length - 1 - i), "text-anchor": "end" }, svg, line));
    rows.forEach((row, i) => {
      const y = top + each * (i + 0.5);
      const name = row.name.length * 6.2 > start ? `${row.name.slice(0, Math.floor(start / 6.4))}…` : row.name;
      make("title", {}, make("text", { x: start - 12, y: y + 4, "text-anchor": "end" }, svg, name), row.name);
      row.values.forEach((v, j) => {
        if (v === null) return;
        const spread = row.values.length > 1 ? (j / (row.values.length - 1) - 0.5) * 10 : 0;
        make("title", {}, make("circle", { class: `seed c${row.colour % 8}`, cx: x(v), cy: y + spread, r: 3.5 }, svg), `${row.name}, seed ${j}: ${exact(v)}`);
      });
      if (row.middle !== null) {
        make("title", {}, make("line", { class: `middle c${row.colour % 8}`, x1: x(row.middle), x2: x(row.middle), y1: y - 9, y2: y + 9 }, svg), `${row.name}, interquartile mean: ${exact(row.middle)}`);
      }
    });
  }

  // ------------------------------------------------------------------------------------------------- hover and zoom
  listen() {
    const svg = this.svg;
    let from = null;
    const where = (event) => {
      const box = svg.getBoundingClientRect();
      const { start, end, left, right } = this.scale;
      const inside = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      return left + (Math.min(Math.max(inside, start), end) - start) / (end - start) * (right - left);
    };
    svg.addEventListener("pointerdown", (event) => {
      if (!this.scale || event.button !== 0) return;
      from = where(event);
      if (event.pointerType === "mouse") svg.setPointerCapture(event.pointerId);
      this.point(from);
    });
    svg.addEventListener("pointermove", (event) => {
      if (!this.scale) return;
      const here = where(event);
      this.point(here);
      if (from !== null && event.pointerType === "mouse") {
        const { x, top, bottom } = this.scale;
        make("rect", { class: "brush", x: Math.min(x(from), x(here)), y: top, width: Math.abs(x(here) - x(from)), height: bottom - top }, this.overlay);
      }
    });
    svg.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const [a, b] = [from, where(event)].sort((p, q) => p - q);
      from = null;
      if (event.pointerType === "mouse" && this.scale.x(b) - this.scale.x(a) > 8) this.zoom([a, b]);
    });
    svg.addEventListener("pointerleave", () => from === null && this.leave());
    svg.addEventListener("pointercancel", () => ((from = null), this.leave()));
    svg.addEventListener("blur", () => this.leave());
    svg.addEventListener("dblclick", () => this.zoom(null));
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (!this.scale) return;
    const { left, right, all } = this.scale;
    const middle = this.at ?? (left + right) / 2;
    const places = [...new Set(this.shown.flatMap((one) => one.x))].filter((x) => x >= left && x <= right).sort((a, b) => a - b);
    const stride = event.shiftKey ? Math.max(1, Math.round(places.length / 10)) : 1;
    const now = places.findIndex((x) => x >= (this.at ?? left));
    const actions = {
      ArrowRight: () => this.at === null ? places[0] : places[Math.min(now + stride, places.length - 1)],
      ArrowLeft: () => this.at === null ? places.at(-1) : places[Math.max(now - stride, 0)],
      Home: () => places[0],
      End: () => places.at(-1),
    };
    if (actions[event.key] && places.length) {
      this.point(actions[event.key](), true);
    } else if (event.key === "+" || event.key === "=") {
      this.zoom([middle - (middle - left) / 2, middle + (right - middle) / 2]);
    } else if (event.key === "-") {
      const wider = [Math.max(all[0], middle - (middle - left) * 2), Math.min(all[1], middle + (right - middle) * 2)];
      this.zoom(wider[0] <= all[0] && wider[1] >= all[1] ? null : wider);
    } else if (event.key === "Escape" || event.key === "0") {
      this.zoom(null);
    } else return;
    event.preventDefault();
  }

  zoom(window) {
    const all = this.extent();
    if (window && window[1] - window[0] < (all[1] - all[0]) * 1e-4) return;
    this.window = window;
    this.leave();
    this.draw();
    this.drawLegend();
  }

  leave() {
    this.at = null;
    this.tip.hidden = true;
    this.overlay?.replaceChildren();
  }

  // Shows what the curves say nearest to x.
  point(wanted, aloud = false) {
    this.at = wanted;
    const { x, y, top, bottom, left, right } = this.scale;
    const near = [];
    for (const one of this.shown) {
      let best = -1;
      one.x.forEach((v, i) => {
        if (one.mean[i] === null || v < left || v > right) return;
        if (best < 0 || Math.abs(v - wanted) < Math.abs(one.x[best] - wanted)) best = i;
      });
      if (best >= 0) near.push([one, best]);
    }
    this.overlay.replaceChildren();
    if (!near.length) return;
    const nearest = near.map(([one, i]) => one.x[i]).reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
    make("line", { class: "cursor", x1: x(nearest), x2: x(nearest), y1: top, y2: bottom }, this.overlay);
    this.tip.replaceChildren();
    element("b", "", this.tip, `${exact(nearest)} ${this.labels.x_label === "environment steps" ? "steps" : this.labels.x_label}`);
    const words = [];
    for (const [one, i] of near.sort((a, b) => b[0].mean[b[1]] - a[0].mean[a[1]]).slice(0, 12)) {
      make("circle", { class: `point c${one.colour % 8}`, cx: x(one.x[i]), cy: y(one.mean[i]), r: 4 }, this.overlay);
      const row = element("div", `c${one.colour % 8}`, this.tip);
      element("i", "", row);
      element("span", "", row, one.name);
      const ends = one.low?.[i] !== null && one.low?.[i] !== undefined ? ` (${exact(one.low[i])} to ${exact(one.high[i])})` : "";
      const value = `${exact(one.mean[i])}${ends}`;
      element("em", "", row, value);
      words.push(`${one.name} ${value}`);
    }
    if (aloud) this.told.textContent = `${exact(nearest)}: ${words.join("; ")}`;
    this.tip.hidden = false;
    const [box, inside] = [this.box.getBoundingClientRect(), this.svg.getBoundingClientRect()];
    const place = inside.left - box.left + (x(nearest) * inside.width) / this.svg.viewBox.baseVal.width;
    const room = this.box.clientWidth - this.tip.offsetWidth - 6;
    const narrow = this.box.clientWidth < 480; // there it would hide what it speaks of
    const beside = place + 14 > room ? place - this.tip.offsetWidth - 14 : place + 14;
    this.tip.style.left = `${narrow ? 4 : Math.max(4, Math.min(beside, room))}px`;
    this.tip.style.top = `${inside.top - box.top + (narrow ? 10 - this.tip.offsetHeight : top)}px`;
  }
}

// All panels of one source, kept up with it.
class Chart {
  constructor(place, moved) {
    this.place = place;
    this.moved = moved;
    this.metric = "";
    this.panels = [];
    this.bare = "bare" in place.dataset;
    this.note = element("p", "muted small");
    this.begin();
  }

  address(base) {
    return this.metric ? `${base}&metric=${encodeURIComponent(this.metric)}` : base;
  }

  choose(metric) {
    this.metric = metric;
    this.begin();
  }

  begin() {
    this.turn = (this.turn ?? 0) + 1;
    this.events?.close();
    this.fetch(this.turn);
    if (this.place.dataset.live) this.follow(this.turn);
  }

  async fetch(turn) {
    try {
      for (;;) {
        const answer = await fetch(this.address(this.place.dataset.src));
        if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
        const data = await answer.json();
        if (turn !== this.turn) return;
        this.show(data);
        if (data.complete !== false || this.place.dataset.live) return;
      }
    } catch (error) {
      this.note.textContent = `The figure’s data could not be had (${error.message}).`;
      this.place.append(this.note);
    }
  }

  follow(turn) {
    const events = (this.events = new EventSource(this.address(this.place.dataset.live)));
    events.addEventListener("curves", (event) => {
      if (turn !== this.turn) return;
      const data = JSON.parse(event.data);
      this.show(data);
      this.moved?.(data.runs);
    });
    events.addEventListener("end", () => events.close());
    addEventListener("pagehide", () => events.close(), { once: true });
  }

  show(data) {
    if (!this.panels.length) this.place.replaceChildren();
    if (data.metrics) this.offer(data.metrics, data.metric);
    const empty = data.panels.every((panel) => panel.series.every((one) => !one.x.length));
    data.panels.forEach((panel, i) => {
      this.panels[i] ??= new Panel(this.place, data, this.bare);
      this.panels[i].set(panel, data);
      this.panels[i].box.hidden = empty;
    });
    this.note.textContent = empty
      ? "No point yet."
      : data.complete === false ? `Reading: ${Math.round((100 * data.read) / Math.max(data.size, 1))} %` : "";
    this.note.hidden = !this.note.textContent;
    this.place.append(this.note);
    this.place.dataset.points = data.panels.reduce((n, panel) => n + panel.series.reduce((m, one) => m + (one.rows ?? one.x.length), 0), 0);
  }

  // A run that has just begun has metrics that the page did not know of when it was made.
  offer(metrics, chosen) {
    const select = document.querySelector(`[data-metric-of="${this.place.id}"]`);
    if (!select || !this.place.id) return;
    for (const name of metrics) {
      if ([...select.options].some((option) => option.value === name)) continue;
      select.append(new Option(name.replaceAll("_", " "), name));
    }
    if (!this.metric && chosen) select.value = chosen;
  }
}

export function figures(options = {}) {
  for (const place of document.querySelectorAll(".chart[data-src]")) known.set(place, new Chart(place, options.moved));
}
