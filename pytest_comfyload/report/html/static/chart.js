// A chart: a Bokeh figure in the colours of the page, with our own pointer, tooltip and keys.
"use strict";

/**
 * @typedef {Object} Spec
 * @property {string} unit of the vertical axis
 * @property {number[]} x where the points are, ascending, for the pointer and the keys
 * @property {boolean} [dates] x is milliseconds since 1970
 * @property {boolean} [log] vertical axis
 * @property {[number, number]} [view] the horizontal range that is seen at first
 * @property {[number, number]} whole the horizontal range that there is
 * @property {(low: number, high: number) => [number, number]} vertical range for what is in view
 * @property {(figure: any, chart: Chart) => void} draw puts glyphs into the figure
 * @property {(low: number, high: number) => {at: number, text: string}[]} [ticks] of the horizontal axis
 * @property {(index: number) => any[]} [tip] lines of the tooltip
 * @property {(index: number) => void} [pick]
 * @property {Link} [link] charts that move together
 * @property {number} [height]
 * @property {string} [xLabel]
 * @property {boolean} [inverted]
 * @property {boolean} [bare] without a vertical axis
 */

class Link {
  constructor() {
    /** @type {Set<Chart>} */
    this.charts = new Set();
    /** @type {(low: number, high: number) => void} */
    this.onview = () => {};
  }
  /** @param {Chart} from @param {number} low @param {number} high */
  view(from, low, high) {
    for (const chart of this.charts) if (chart !== from) chart.show(low, high);
    this.onview(low, high);
  }
  /** @param {Chart} from @param {number|null} index */
  point(from, index) {
    for (const chart of this.charts) chart.mark(index);
  }
}

class Chart {
  /** @param {HTMLElement} element @param {Spec} spec */
  constructor(element, spec) {
    this.element = element;
    this.spec = spec;
    this.index = null;
    this.moving = false;
    spec.link?.charts.add(this);
    this.figure = this.make();
    element.replaceChildren();
    this.ready = Bokeh.Plotting.show(this.figure, element).then((view) => {
      this.view = view;
      // The keys are ours: Bokeh's own stop would be a second one.
      for (const inner of element.children) if (inner instanceof HTMLElement) inner.tabIndex = -1;
      element.dataset.drawn = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      return this;
    });
    element.onkeydown = (event) => this.key(event);
    element.onblur = () => this.point(null);
    element.onmouseleave = () => this.point(null);
  }

  make() {
    const { spec } = this;
    const [low, high] = spec.view || spec.whole;
    const { color } = comfyload;
    const zoom = new Bokeh.BoxZoomTool({ dimensions: "width" });
    zoom.overlay.fill_color = color("--accent");
    zoom.overlay.fill_alpha = 0.15;
    zoom.overlay.line_color = color("--accent");
    const wheel = new Bokeh.WheelZoomTool({ dimensions: "width", modifiers: { ctrl: true } });
    this.x = new Bokeh.Range1d({ start: low, end: high });
    const [bottom, top] = spec.vertical(low, high);
    this.y = new Bokeh.Range1d(spec.inverted ? { start: top, end: bottom } : { start: bottom, end: top });
    const figure = Bokeh.Plotting.figure({
      height: spec.height || 220, sizing_mode: "stretch_width", toolbar_location: null, tools: [],
      x_range: this.x, y_range: this.y, x_axis_type: spec.dates ? "datetime" : "linear",
      y_axis_type: spec.log ? "log" : "linear", output_backend: "canvas",
      background_fill_color: null, border_fill_color: null, outline_line_color: null,
      min_border_left: 56, min_border_right: 12, min_border_top: 8,
    });
    figure.toolbar.tools = [zoom, wheel];
    figure.toolbar.active_drag = zoom;
    figure.toolbar.active_scroll = wheel;
    this.dress(figure);
    spec.draw(figure, this);
    this.cursor = new Bokeh.Span({
      dimension: "height", location: NaN, line_color: color("--muted"), line_width: 1, line_dash: [3, 3], visible: false,
    });
    figure.add_layout(this.cursor);
    figure.on_event("mousemove", (event) => this.follow(event));
    figure.on_event("tap", () => this.index !== null && !this.moving && spec.pick?.(this.index));
    figure.on_event("doubletap", () => this.reset());
    this.x.change.connect(() => this.moved());
    return figure;
  }

  /** @param {any} figure */
  dress(figure) {
    const { color } = comfyload;
    const text = color("--muted"), rule = color("--rule");
    const font = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
    for (const axis of [...figure.below, ...figure.left]) {
      axis.major_label_text_color = text;
      axis.axis_label_text_color = text;
      axis.major_label_text_font = axis.axis_label_text_font = font;
      axis.major_label_text_font_size = axis.axis_label_text_font_size = "11px";
      axis.axis_label_text_font_style = "normal";
      axis.axis_line_color = axis.major_tick_line_color = rule;
      axis.minor_tick_line_color = null;
    }
    figure.left[0].axis_label = this.spec.unit || null;
    figure.left[0].visible = !this.spec.bare;
    figure.left[0].axis_line_color = figure.left[0].major_tick_line_color = null;
    if (this.spec.xLabel) figure.below[0].axis_label = this.spec.xLabel;
    if (this.spec.ticks) figure.below[0].ticker = new Bokeh.FixedTicker({ ticks: [] });
    if (this.spec.ticks) this.tick(figure, this.x.start, this.x.end);
    for (const grid of figure.center.filter((each) => each.type === "Grid")) {
      grid.grid_line_color = grid.dimension === 1 && !this.spec.bare ? rule : null;
    }
  }

  /** @param {any} figure @param {number} low @param {number} high */
  tick(figure, low, high) {
    const ticks = this.spec.ticks(low, high);
    figure.below[0].major_label_overrides = new Map(ticks.map(({ at, text }) => [at, text]));
    figure.below[0].ticker.ticks = ticks.map(({ at }) => at);
  }

  moved() {
    if (this.moving) return;
    this.moving = true;
    // Start and end come one after the other.
    requestAnimationFrame(() => {
      this.moving = false;
      const { start, end } = this.x;
      this.settle(start, end);
      this.spec.link ? this.spec.link.view(this, start, end) : null;
    });
  }

  /** @param {number} low @param {number} high */
  settle(low, high) {
    const [bottom, top] = this.spec.vertical(low, high);
    this.y.setv(this.spec.inverted ? { start: top, end: bottom } : { start: bottom, end: top });
    if (this.spec.ticks) this.tick(this.figure, low, high);
  }

  /** Shows so much of the horizontal axis, and tells nobody. @param {number} low @param {number} high */
  show(low, high) {
    if (this.x.start === low && this.x.end === high) return;
    this.moving = true;
    this.x.setv({ start: low, end: high });
    this.moving = false;
    this.settle(low, high);
  }

  /** @param {number} low @param {number} high */
  zoom(low, high) {
    this.show(low, high);
    this.spec.link?.view(this, low, high);
  }

  reset() {
    this.zoom(...this.spec.whole);
  }

  /** The point nearest to the pointer. @param {any} event */
  follow(event) {
    const { x } = this.spec;
    if (!x.length) return;
    let low = 0, high = x.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      x[middle] <= event.x ? (low = middle) : (high = middle);
    }
    this.point(Math.abs(x[low] - event.x) <= Math.abs(x[high] - event.x) ? low : high);
  }

  /** @param {number|null} index */
  point(index) {
    if (this.index === index) return;
    this.spec.link ? this.spec.link.point(this, index) : this.mark(index);
    if (index === null || !this.spec.tip) comfyload.tip(null);
    else comfyload.tip(this.spec.tip(index), this.place(index));
  }

  /** @param {number|null} index */
  mark(index) {
    this.index = index;
    const at = index === null ? NaN : this.spec.x[index];
    this.cursor.setv({ location: Number.isFinite(at) ? at : 0, visible: Number.isFinite(at) });
  }

  /** Where a point is on the page. @param {number} index */
  place(index) {
    const box = this.element.getBoundingClientRect();
    const inner = this.view?.frame?.bbox;
    const share = (this.spec.x[index] - this.x.start) / (this.x.end - this.x.start || 1);
    const left = inner ? inner.left + share * inner.width : share * box.width;
    return { x: box.left + left, y: box.top, height: box.height };
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { x } = this.spec, { start, end } = this.x;
    const within = x.map((_, index) => index).filter((index) => x[index] >= start && x[index] <= end);
    if (!within.length) return;
    const at = this.index === null ? -1 : within.indexOf(this.index);
    const last = within.length - 1;
    const centre = this.index === null ? (start + end) / 2 : x[this.index];
    const scaled = (factor) => this.zoom(centre - (centre - start) * factor, centre + (end - centre) * factor);
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
    this.spec.link?.charts.delete(this);
    this.element.onkeydown = this.element.onblur = this.element.onmouseleave = null;
    this.figure.document?.clear();
    this.element.replaceChildren();
  }
}

/** Shows lines beside a place, or nothing. @param {any[]|null} lines @param {{x: number, y: number, height: number}} [place] */
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

/** A range with some room around values. @param {Iterable<number>} values @param {{zero?: boolean, log?: boolean}} how */
comfyload.room = (values, { zero = false, log = false } = {}) => {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value) || (log && value <= 0)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return log ? [0.1, 1] : [0, 1];
  if (log) return [low / 1.25, high * 1.25];
  if (zero) return [Math.min(0, low), high > 0 ? high * 1.08 : 1];
  const margin = (high - low || Math.abs(high) || 1) * 0.12;
  return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
};

comfyload.Chart = Chart;
comfyload.Link = Link;
