// The page of a capacity plan: p95 against people, and the cost of an image against p95.
"use strict";

(() => {
  const { element, written, color } = comfyload;
  const data = comfyload.data("plan-data");
  const COLORS = ["--c-1", "--c-2", "--c-3"];
  const KINDS = { strategy: ["--c-1", "circle"], "more GPUs": ["--c-3", "triangle"], "another GPU": ["--c-2", "square"] };
  const number = (value) => (typeof value === "number" ? value : NaN);
  const servers = (count) => `${count} GPU${count > 1 ? "s" : ""}`;
  const source = (columns) => new Bokeh.ColumnDataSource({ data: columns });
  const bounded = (figure, dimension) => {
    if (data.bound === null) return;
    figure.add_layout(new Bokeh.Span({ dimension, location: data.bound, line_color: color("--bad"), line_width: 1.5, line_dash: [6, 4] }));
  };
  const slo = data.bound === null ? [] : [{ name: "SLO", color: "--bad", kind: "dashed", value: written(data.bound, "s") }];

  // --- people ---

  const peopleChart = (figure) => {
    const x = [...new Set(data.curves.flatMap(({ people }) => people))].sort((a, b) => a - b);
    const all = data.curves.flatMap(({ p95 }) => p95.map(number));
    const at = (curve, people) => number(curve.p95[curve.people.indexOf(people)]);
    comfyload.legend(figure.querySelector(".legend"), [
      ...data.curves.map(({ gpus }, place) => ({ name: servers(gpus), color: COLORS[place] })), ...slo,
      { name: "people now", color: "--muted", kind: "dashed" },
    ]);
    return new comfyload.Chart(figure.querySelector(".plot"), {
      unit: "s", x, xLabel: "people · ◆ knee · ○ 80 % of it", height: 320, whole: [0, 1.02 * x[x.length - 1]],
      vertical: () => comfyload.room([...all, data.bound ?? NaN], { zero: true }),
      draw: (plot) => {
        bounded(plot, "width");
        plot.add_layout(new Bokeh.Span({ dimension: "height", location: data.people, line_color: color("--muted"), line_width: 1, line_dash: [4, 4] }));
        data.curves.forEach((curve, place) => {
          const paint = color(COLORS[place]);
          plot.line({ field: "x" }, { field: "y" }, { source: source({ x: curve.people, y: curve.p95.map(number) }), line_color: paint, line_width: 1.8 });
          const marked = (people, how) => plot.scatter({ x: { field: "x" }, y: { field: "y" }, source: source({ x: [people], y: [at(curve, people)] }), line_color: paint, line_width: 2, ...how });
          marked(curve.margin, { marker: "circle", size: 9, fill_color: color("--card") });
          marked(curve.knee, { marker: "diamond", size: 14, fill_color: paint });
        });
      },
      tip: (index) => {
        const known = data.curves.filter((curve) => curve.people.includes(x[index]));
        const what = (curve) => (x[index] === curve.knee ? " (knee)" : x[index] === curve.margin ? " (80 % of the knee)" : "");
        return [element("p", { class: "tip-title" }, `${x[index]} people${x[index] === data.people ? ", as now" : ""}`),
          element("dl", {}, ...known.flatMap((curve) => [element("dt", {}, servers(curve.gpus) + what(curve)), element("dd", {}, written(curve.p95[curve.people.indexOf(x[index])], "s"))]))];
      },
    });
  };

  // --- cost ---

  const costChart = (figure) => {
    const known = data.costs.filter(({ p95 }) => typeof p95 === "number");
    const x = known.map(({ p95 }) => p95), y = known.map(({ dollars }) => dollars);
    const kinds = Object.keys(KINDS).filter((kind) => known.some((cost) => cost.kind === kind));
    comfyload.legend(figure.querySelector(".legend"), [...kinds.map((kind) => ({ name: kind, color: KINDS[kind][0], kind: "area" })), ...slo]);
    const [low, high] = comfyload.room([...x, data.bound ?? NaN], { zero: true });
    return new comfyload.Chart(figure.querySelector(".plot"), {
      unit: "$ an image", x, xLabel: "p95 of total time, s", height: 300, whole: [low, high], vertical: () => comfyload.room(y, { zero: true }),
      draw: (plot) => {
        bounded(plot, "height");
        for (const kind of kinds) {
          const [paint, marker] = KINDS[kind], some = known.filter((cost) => cost.kind === kind);
          const columns = source({ x: some.map(({ p95 }) => p95), y: some.map(({ dollars }) => dollars) });
          plot.scatter({ x: { field: "x" }, y: { field: "y" }, source: columns, marker, size: 10, fill_color: color(paint), fill_alpha: 0.8, line_color: color("--card") });
        }
        if (figure.clientWidth < 700) return; // names would overlap: the pointer and the table tell them
        const top = Math.max(...y), near = (a, b) => Math.abs(a.p95 - b.p95) < 0.25 * high && Math.abs(a.dollars - b.dollars) < 0.06 * top;
        const named = known.filter((cost, place) => !known.slice(0, place).some((other) => near(cost, other)));
        const right = (cost) => cost.p95 > 0.7 * high;
        for (const [some, text_align, x_offset] of [[named.filter((cost) => !right(cost)), "left", 10], [named.filter(right), "right", -10]]) {
          const columns = source({ x: some.map(({ p95 }) => p95), y: some.map(({ dollars }) => dollars), text: some.map(({ label }) => label) });
          plot.text({ x: { field: "x" }, y: { field: "y" }, text: { field: "text" }, source: columns, text_align, x_offset, text_baseline: "middle", text_font_size: "11px", text_color: color("--muted") });
        }
      },
      tip: (index) => [element("p", { class: "tip-title" }, known[index].label), element("p", { class: "quiet" }, known[index].kind),
        element("dl", {}, element("dt", {}, "p95"), element("dd", {}, written(known[index].p95, "s")), element("dt", {}, "an image"), element("dd", {}, `$${written(known[index].dollars, "")}`))],
    });
  };

  for (const [name, make] of Object.entries({ people: peopleChart, cost: costChart })) {
    const figure = document.querySelector(`[data-chart="${name}"]`);
    if (!figure) continue;
    let drawn = null;
    const again = () => {
      drawn?.remove();
      drawn = make(figure);
    };
    comfyload.whenSeen(figure, () => {
      again();
      comfyload.onScheme(again);
    });
  }
})();
