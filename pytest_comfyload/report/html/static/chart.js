// An SVG chart in the colours of the page, with pointer, tooltip, keyboard and zoom, and without dependencies.
"use strict";

/**
 * @typedef {Object} Spec
 * @property {string} unit of the vertical axis
 * @property {number[]} x positions of the points, ascending, for pointer and keyboard
 * @property {boolean} [dates] x is milliseconds since 1970
 * @property {boolean} [log] logarithmic vertical axis
 * @property {[number, number]} [view] initial horizontal range
 * @property {[number, number]} whole full horizontal range
 * @property {(low: number, high: number) => [number, number]} vertical range for the horizontal range in view
 * @property {(plot: Plot) => void} draw adds marks to the plot, each time the view changes
 * @property {(low: number, high: number, about: number) => {at: number, text: string}[]} [ticks] of the horizontal axis
 * @property {(index: number) => any[]} [tip] lines of the tooltip
 * @property {(index: number) => void} [pick]
 * @property {(x: number, y: number) => number|null} [nearest] point at the pointer, where x alone does not determine it
 * @property {Link} [link] charts that zoom and point together
 * @property {number} [height]
 * @property {string} [xLabel]
 * @property {boolean} [inverted]
 * @property {boolean} [bare] without a vertical axis
 */

/** @param {string} tag @param {Record<string, any>} attributes @param {Record<string, any>} style colours as style sheet variables */
const drawn = (tag, attributes, style = {}) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  for (const [name, value] of Object.entries(style)) {
    if (value !== undefined && value !== null) element.style.setProperty(name, String(value).startsWith("--") ? `var(${value})` : String(value));
  }
  return element;
};

/** Return about `about` round values in a range. @param {number} low @param {number} high @param {number} about */
const roundTicks = (low, high, about) => {
  const raw = (high - low) / Math.max(1, about);
  if (!(raw > 0) || !Number.isFinite(raw)) return [];
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * ([1, 2, 5, 10].find((each) => unit * each >= raw * (1 - 1e-9)) || 10);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, place) => (first + place) * step);
};

/** Return 1, 2, 5, 10, 20, … within a range. @param {number} low @param {number} high */
const logTicks = (low, high) => {
  const powers = Array.from({ length: 40 }, (_, place) => place - 20).flatMap((power) => [1, 2, 5].map((each) => each * 10 ** power));
  return powers.filter((each) => each >= low && each <= high);
};

const HOUR = 3_600_000, DAY = 24 * HOUR;
const DATE_STEPS = [HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 90 * DAY, 180 * DAY, 365 * DAY];

/** @param {number} low milliseconds @param {number} high @param {number} about */
const dateTicks = (low, high, about) => {
  const step = DATE_STEPS.find((each) => (high - low) / each <= about) || 365 * DAY * Math.ceil((high - low) / (365 * DAY * about));
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.max(0, Math.floor(high / step) - first + 1) }, (_, place) => (first + place) * step)
    .map((at) => ({ at, text: comfyload.date(at / 1000, step < DAY).replace(" UTC", "") }));
};

/** Draws the marks of a chart, given in the units of its data. */
class Plot {
  /** @param {SVGElement} target @param {(value: number) => number} x @param {(value: number) => number} y @param {{left: number, top: number, width: number, height: number}} box */
  constructor(target, x, y, box) {
    Object.assign(this, { target, x, y, box });
  }

  add(tag, attributes, style) {
    this.target.append(drawn(tag, attributes, style));
  }

  /** Return a path with gaps where a value is not finite. */
  path(xs, ys) {
    let d = "", down = false;
    for (let place = 0; place < xs.length; place += 1) {
      const known = Number.isFinite(xs[place]) && Number.isFinite(ys[place]);
      if (known) d += `${down ? "L" : "M"}${this.x(xs[place]).toFixed(1)} ${this.y(ys[place]).toFixed(1)}`;
      down = known;
    }
    return d;
  }

  line(xs, ys, { color, width = 1.8, dash = "", alpha = 1 }) {
    this.add("path", { d: this.path(xs, ys), fill: "none" }, { stroke: color, "stroke-width": width, "stroke-dasharray": dash, opacity: alpha });
  }

  /** Fill the area between two curves where both are finite. */
  area(xs, below, above, { color, alpha }) {
    let piece = [];
    const close = () => {
      if (piece.length > 1) {
        const at = (values) => piece.map((place) => values[place]), back = [...piece].reverse();
        const d = `${this.path(at(xs), at(above))}L${this.path(back.map((place) => xs[place]), back.map((place) => below[place])).slice(1)}Z`;
        this.add("path", { d }, { fill: color, opacity: alpha });
      }
      piece = [];
    };
    xs.forEach((_, place) => (Number.isFinite(below[place]) && Number.isFinite(above[place]) ? piece.push(place) : close()));
    close();
  }

  /** @param {number[]} xs @param {number[]} ys @param {{color: string, size: number, shape?: string, fill?: string, edge?: number}} how `fill` "none" for a ring */
  dots(xs, ys, { color, size, shape = "circle", fill = color, edge = 0 }) {
    const r = size / 2, d = xs.map((value, place) => {
      if (!Number.isFinite(value) || !Number.isFinite(ys[place])) return "";
      const x = this.x(value), y = this.y(ys[place]), at = (dx, dy) => `${(x + dx).toFixed(1)} ${(y + dy).toFixed(1)}`;
      if (shape === "cross") return `M${at(-r, -r)}L${at(r, r)}M${at(-r, r)}L${at(r, -r)}`;
      if (shape === "square") return `M${at(-r, -r)}h${size}v${size}h${-size}Z`;
      if (shape === "diamond") return `M${at(0, -r)}L${at(r, 0)}L${at(0, r)}L${at(-r, 0)}Z`;
      if (shape === "triangle") return `M${at(0, -r)}L${at(r, r)}L${at(-r, r)}Z`;
      return `M${at(-r, 0)}a${r} ${r} 0 1 0 ${size} 0a${r} ${r} 0 1 0 ${-size} 0Z`;
    }).join("");
    const outlined = shape === "cross" || edge || fill === "none";
    this.add("path", { d }, { fill: shape === "cross" ? "none" : fill, stroke: outlined ? color : "none", "stroke-width": edge || 1.6 });
  }

  /** Draw horizontal bars. */
  bars(lefts, rights, ys, height, color) {
    const half = height / 2, d = lefts.map((left, place) => {
      const x = this.x(left), width = Math.max(0.5, this.x(rights[place]) - x), top = this.y(ys[place] - half), bottom = this.y(ys[place] + half);
      return `M${x.toFixed(1)} ${top.toFixed(1)}h${width.toFixed(1)}V${bottom.toFixed(1)}h${(-width).toFixed(1)}Z`;
    }).join("");
    this.add("path", { d }, { fill: color });
  }

  /** Draw a line through the whole chart: horizontal if `across`, else vertical. */
  rule(value, { across = false, color, width = 1, dash = "", alpha = 1 }) {
    const { left, top, width: wide, height } = this.box;
    const d = across ? `M${left} ${this.y(value).toFixed(1)}h${wide}` : `M${this.x(value).toFixed(1)} ${top}v${height}`;
    this.add("path", { d, fill: "none" }, { stroke: color, "stroke-width": width, "stroke-dasharray": dash, opacity: alpha });
  }

  /** Fill the area between two heights. */
  zone(low, high, { color, alpha }) {
    const { left, width } = this.box, top = this.y(high);
    this.add("rect", { x: left, y: top, width, height: Math.max(0, this.y(low) - top) }, { fill: color, opacity: alpha });
  }

  /** @param {number} x @param {number|null} y null: at the lower edge @param {string} text @param {{anchor?: string, dx?: number, color?: string}} how */
  text(x, y, text, { anchor = "start", dx = 0, color = "--muted" } = {}) {
    const label = drawn("text", { x: this.x(x) + dx, y: y === null ? this.box.top + this.box.height - 5 : this.y(y) + 4, "text-anchor": anchor }, { fill: color });
    label.textContent = text;
    this.target.append(label);
  }
}

class Link {
  constructor() {
    /** @type {Set<Chart>} */
    this.charts = new Set();
    /** @type {(low: number, high: number) => void} */
    this.onview = () => {};
  }
  /** @param {number} low @param {number} high */
  view(low, high) {
    for (const chart of this.charts) chart.show(low, high);
    this.onview(low, high);
  }
  /** @param {number|null} index */
  point(index) {
    for (const chart of this.charts) chart.mark(index);
  }
}

class Chart {
  /** @param {HTMLElement & {chart?: Chart}} element @param {Spec} spec */
  constructor(element, spec) {
    Object.assign(this, { element, spec, index: null, from: null, picking: 0 });
    [this.low, this.high] = spec.view || spec.whole;
    element.chart = this;
    spec.link?.charts.add(this);
    this.svg = drawn("svg", { "aria-hidden": "true" });
    element.replaceChildren(this.svg);
    element.onkeydown = (event) => this.key(event);
    element.onblur = () => this.point(null);
    // A finger leaves when it is lifted: the touched point stays marked.
    element.onpointerleave = (event) => event.pointerType === "mouse" && this.from === null && this.point(null);
    this.listen();
    this.sized = new ResizeObserver(() => element.clientWidth !== this.width && this.draw());
    this.sized.observe(element);
    this.draw();
  }

  listen() {
    const { svg, spec } = this;
    svg.addEventListener("pointermove", (event) => this.moved(event));
    svg.addEventListener("pointerdown", (event) => this.pressed(event));
    svg.addEventListener("pointerup", (event) => this.released(event));
    svg.addEventListener("pointercancel", () => this.select(null));
    // A double tap is not a double click: its second tap opens the point that the first one showed.
    svg.addEventListener("dblclick", () => this.pointer === "mouse" && this.reset());
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const at = this.value(event), factor = event.deltaY < 0 ? 0.8 : 1.25;
      this.zoom(at - (at - this.low) * factor, at + (this.high - at) * factor);
    }, { passive: false });
    svg.style.cursor = spec.pick ? "pointer" : "crosshair";
  }

  // --- drawing ---

  draw() {
    const { element, spec, svg, low, high } = this, height = spec.height || 220;
    this.width = element.clientWidth;
    if (!this.width) return;
    const below = spec.xLabel ? 44 : spec.ticks ? 38 : 26;
    const box = (this.box = { left: spec.bare ? 8 : 56, top: 20, width: Math.max(40, this.width - (spec.bare ? 20 : 68)), height: height - 20 - below });
    const [bottom, top] = (this.vertical = spec.vertical(low, high));
    const scale = spec.log ? (value) => Math.log10(Math.max(value, 1e-12)) : (value) => value;
    const [from, to] = spec.inverted ? [scale(top), scale(bottom)] : [scale(bottom), scale(top)];
    const x = (value) => box.left + ((value - low) / (high - low || 1)) * box.width;
    const y = (value) => box.top + box.height - ((scale(value) - from) / (to - from || 1)) * box.height;
    svg.replaceChildren();
    for (const [name, value] of Object.entries({ viewBox: `0 0 ${this.width} ${height}`, height })) svg.setAttribute(name, String(value));
    this.axes(x, y);
    const inner = drawn("svg", { x: box.left - 6, y: box.top - 6, width: box.width + 12, height: box.height + 12, viewBox: `${box.left - 6} ${box.top - 6} ${box.width + 12} ${box.height + 12}` });
    svg.append(inner);
    spec.draw(new Plot(inner, x, y, box));
    this.toX = x;
    this.toY = (pixel) => from + ((box.top + box.height - pixel) / box.height) * (to - from);
    this.cursor = svg.appendChild(drawn("path", { d: "" }, { stroke: "--muted", "stroke-dasharray": "3 3" }));
    this.brush = svg.appendChild(drawn("rect", { y: box.top, height: box.height, width: 0, x: 0 }, { fill: "--accent", opacity: 0.15 }));
    this.mark(this.index);
    element.dataset.drawn = "1";
  }

  axes(x, y) {
    const { spec, box, svg } = this, [bottom, top] = this.vertical;
    const write = (at, down, text, anchor) => {
      const label = drawn("text", { x: at, y: down, "text-anchor": anchor }, { fill: "--muted" });
      label.textContent = text;
      svg.append(label);
    };
    if (!spec.bare) {
      const decades = spec.log ? logTicks(bottom, top) : [];
      for (const value of decades.length > 2 ? decades : roundTicks(bottom, top, box.height / 40)) {
        svg.append(drawn("path", { d: `M${box.left} ${y(value).toFixed(1)}h${box.width}` }, { stroke: "--rule" }));
        write(box.left - 8, y(value) + 4, comfyload.written(value, ""), "end");
      }
      write(4, 11, spec.unit, "start");
    }
    svg.append(drawn("path", { d: `M${box.left} ${box.top + box.height}h${box.width}` }, { stroke: "--rule-strong" }));
    const about = Math.max(2, Math.floor(box.width / 110));
    const ticks = spec.ticks ? spec.ticks(this.low, this.high, about) : spec.dates ? dateTicks(this.low, this.high, about)
      : roundTicks(this.low, this.high, about).map((at) => ({ at, text: comfyload.written(at, "") }));
    for (const { at, text } of ticks) {
      const place = Math.min(Math.max(x(at), box.left + 12), box.left + box.width - 14);
      text.split("\n").forEach((line, row) => write(place, box.top + box.height + 15 + 13 * row, line, "middle"));
    }
    if (spec.xLabel) write(box.left + box.width / 2, box.top + box.height + 36, spec.xLabel, "middle");
  }

  // --- view ---

  /** Show a range of the horizontal axis, without notifying the link. @param {number} low @param {number} high */
  show(low, high) {
    if (this.low === low && this.high === high) return;
    Object.assign(this, { low, high });
    this.draw();
  }

  /** @param {number} low @param {number} high */
  zoom(low, high) {
    this.spec.link ? this.spec.link.view(low, high) : this.show(low, high);
  }

  reset() {
    clearTimeout(this.picking);
    this.zoom(...this.spec.whole);
  }

  // --- pointer ---

  /** Return the pointer's value on the horizontal axis. @param {MouseEvent} event */
  value(event) {
    const share = (event.clientX - this.svg.getBoundingClientRect().left - this.box.left) / this.box.width;
    return this.low + Math.min(1, Math.max(0, share)) * (this.high - this.low);
  }

  /** @param {PointerEvent} event */
  moved(event) {
    if (this.from !== null) this.select(this.value(event));
    else this.follow(event);
  }

  /** @param {PointerEvent} event */
  follow(event) {
    const { x, nearest } = this.spec, at = this.value(event);
    if (nearest) this.point(nearest(at, this.toY(event.clientY - this.svg.getBoundingClientRect().top)));
    else if (x.length) {
      let low = 0, high = x.length - 1;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        x[middle] <= at ? (low = middle) : (high = middle);
      }
      this.point(Math.abs(x[low] - at) <= Math.abs(x[high] - at) ? low : high);
    }
  }

  /** @param {PointerEvent} event */
  pressed(event) {
    if (event.button !== 0) return;
    this.known = this.index;
    this.pointer = event.pointerType;
    this.follow(event);
    this.from = this.value(event);
    this.svg.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  released(event) {
    if (this.from === null) return;
    const [low, high] = [this.from, this.value(event)].sort((a, b) => a - b);
    this.select(null);
    if (Math.abs(this.toX(high) - this.toX(low)) > 6) this.zoom(low, high);
    // A finger cannot hover: the first tap shows the tooltip, the second opens the point.
    else if (this.spec.pick && this.index !== null && (event.pointerType === "mouse" || this.known === this.index)) {
      clearTimeout(this.picking);
      const { index } = this;
      // Delayed, so that a double click can cancel it.
      this.picking = setTimeout(() => this.spec.pick(index), 220);
    }
  }

  /** Show the dragged range; null ends it. @param {number|null} to */
  select(to) {
    const [low, high] = [this.from, to ?? this.from].sort((a, b) => a - b).map((each) => this.toX(each ?? this.low));
    this.brush.setAttribute("x", String(low));
    this.brush.setAttribute("width", String(high - low));
    if (to === null) this.from = null;
  }

  /** @param {number|null} index */
  point(index) {
    if (this.index === index) return;
    this.spec.link ? this.spec.link.point(index) : this.mark(index);
    if (index === null || !this.spec.tip) comfyload.tip(null);
    else comfyload.tip(this.spec.tip(index), this.place(index));
  }

  /** @param {number|null} index */
  mark(index) {
    this.index = index;
    const at = index === null ? NaN : this.spec.x[index], { top, height } = this.box || {};
    this.cursor?.setAttribute("d", Number.isFinite(at) ? `M${this.toX(at).toFixed(1)} ${top}v${height}` : "");
  }

  /** Return the position of a point on the page. @param {number} index */
  place(index) {
    const box = this.element.getBoundingClientRect();
    return { x: box.left + this.toX(this.spec.x[index]), y: box.top, height: box.height };
  }

  // --- keys ---

  /** @param {KeyboardEvent} event */
  key(event) {
    const { x } = this.spec, { low, high } = this;
    const within = x.map((_, index) => index).filter((index) => x[index] >= low && x[index] <= high);
    if (!within.length) return;
    const at = this.index === null ? -1 : within.indexOf(this.index);
    const last = within.length - 1;
    const centre = this.index === null ? (low + high) / 2 : x[this.index];
    const scaled = (factor) => this.zoom(centre - (centre - low) * factor, centre + (high - centre) * factor);
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowRight: () => this.point(within[Math.min(last, at + 1)]),
      ArrowLeft: () => this.point(within[at < 0 ? last : Math.max(0, at - 1)]),
      Home: () => this.point(within[0]),
      End: () => this.point(within[last]),
      Enter: () => this.index !== null && this.spec.pick?.(this.index),
      "+": () => scaled(0.5),
      "-": () => scaled(2),
      Escape: () => this.reset(),
    };
    const act = keys[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  }

  remove() {
    this.sized.disconnect();
    this.spec.link?.charts.delete(this);
    this.element.onkeydown = this.element.onblur = this.element.onpointerleave = null;
    this.element.replaceChildren();
    delete this.element.dataset.drawn;
  }
}

/** Show a tooltip at a place, or hide it. @param {any[]|null} lines @param {{x: number, y: number, height: number}} [place] */
comfyload.tip = (lines, place) => {
  const tip = document.getElementById("tip");
  tip.hidden = !lines;
  if (!lines || !place) return;
  tip.replaceChildren(...lines);
  const width = tip.offsetWidth, room = document.documentElement.clientWidth;
  const left = place.x + 14 + width > room ? place.x - 14 - width : place.x + 14;
  tip.style.left = `${Math.max(4, Math.min(left, room - width - 4))}px`;
  const top = Math.min(place.y + 12, innerHeight - tip.offsetHeight - 8);
  tip.style.top = `${Math.max(8, top)}px`;
};

/** Return a range with a margin around values. @param {Iterable<number>} values @param {{zero?: boolean, log?: boolean}} how */
comfyload.room = (values, { zero = false, log = false } = {}) => {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value) || (log && value <= 0)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return log ? [0.1, 1] : [0, 1];
  const least = 5 * comfyload.RESOLUTION; // the smallest span in which tick labels differ
  if (log) return [Math.max(low, least) / 1.25, Math.max(high, 10 * least) * 1.25];
  if (zero) return [Math.min(0, low), high > 0 ? Math.max(high * 1.08, least) : 1];
  const margin = Math.max((high - low || Math.abs(high) || 1) * 0.12, least);
  return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
};

comfyload.Chart = Chart;
comfyload.Link = Link;
