// The page of a capacity plan: p95 by number of people, and cost per image by p95.
"use strict";

(() => {
  const { element, written } = comfyload;
  const data = comfyload.data("plan-data");
  const COLORS = ["--c-1", "--c-2", "--c-3"];
  const KINDS = { strategy: ["--c-1", "circle"], "more GPUs": ["--c-3", "triangle"], "another GPU": ["--c-2", "square"] };
  const number = (value) => (typeof value === "number" ? value : NaN);
  const servers = (count) => `${count} GPU${count > 1 ? "s" : ""}`;
  const bounded = (plot, across) => data.bound !== null && plot.rule(data.bound, { across, color: "--bad", width: 1.5, dash: "6 4" });
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
        bounded(plot, true);
        plot.rule(data.people, { color: "--muted", dash: "4 4" });
        data.curves.forEach((curve, place) => {
          const color = COLORS[place];
          plot.line(curve.people, curve.p95.map(number), { color });
          plot.dots([curve.margin], [at(curve, curve.margin)], { color, size: 9, fill: "--card", edge: 2 });
          plot.dots([curve.knee], [at(curve, curve.knee)], { color, size: 14, shape: "diamond" });
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
        bounded(plot, false);
        for (const kind of kinds) {
          const [color, shape] = KINDS[kind], some = known.filter((cost) => cost.kind === kind);
          plot.dots(some.map(({ p95 }) => p95), some.map(({ dollars }) => dollars), { color, shape, size: 10 });
        }
        if (figure.clientWidth < 700) return; // labels would overlap; the tooltips and the table have them
        const top = Math.max(...y), near = (a, b) => Math.abs(a.p95 - b.p95) < 0.25 * high && Math.abs(a.dollars - b.dollars) < 0.06 * top;
        const named = known.filter((cost, place) => !known.slice(0, place).some((other) => near(cost, other)));
        for (const { p95, dollars, label } of named) {
          const right = p95 > 0.7 * high;
          plot.text(p95, dollars, label, { anchor: right ? "end" : "start", dx: right ? -10 : 10 });
        }
      },
      tip: (index) => [element("p", { class: "tip-title" }, known[index].label), element("p", { class: "quiet" }, known[index].kind),
        element("dl", {}, element("dt", {}, "p95"), element("dd", {}, written(known[index].p95, "s")), element("dt", {}, "an image"), element("dd", {}, `$${written(known[index].dollars, "")}`))],
    });
  };

  for (const [name, make] of Object.entries({ people: peopleChart, cost: costChart })) {
    const figure = document.querySelector(`[data-chart="${name}"]`);
    if (!figure) continue;
    comfyload.whenSeen(figure, () => make(figure));
  }
})();
