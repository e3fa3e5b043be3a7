// Two runs side by side. What is known of runs lies in a file for each commit, which is loaded when one is chosen.
"use strict";

(() => {
  const data = comfyload.data("compare-data");
  /** @type {Record<string, any>} */
  const known = data ? data.runs : {};
  /** What the files of commits call. @param {Record<string, any>} runs */
  comfyload.runs = (runs) => Object.assign(known, runs);
  if (!data || !data.lines.length) return;

  const { element, written, grid, state } = comfyload;
  const root = document.body.dataset.root || "";
  const TIMES = { generation_time: "generation", queue_time: "queue", total_time: "total" };
  /** @param {string} id @returns {any} */
  const part = (id) => document.getElementById(id);
  const [lines, before, after] = ["compare-line", "compare-a", "compare-b"].map(part);
  const figure = part("compare-distribution"), which = figure.querySelector(".which");
  let chart = null;

  /** @param {string} run @param {string} page */
  const load = (run, page) => known[run] ? Promise.resolve(known[run]) : new Promise((resolve) => {
    const script = element("script", { src: `${root}runs/${page}.js` });
    script.onload = () => resolve(known[run] || null);
    script.onerror = () => resolve(null);
    document.head.append(script);
  });

  const line = () => data.lines.find((each) => each.id === lines.value) || data.lines[0];

  const fillRuns = (a, b) => {
    const { runs, pair } = line();
    const newest = [...runs].reverse();
    for (const [select, chosen, fallback] of [[before, a, pair[0]], [after, b, pair[1]]]) {
      select.replaceChildren(...newest.map(([run, , label]) => element("option", { value: run }, label)));
      select.value = runs.some(([run]) => run === chosen) ? chosen : fallback;
    }
  };

  const table = (target, head, rows, none) => part(target).replaceChildren(rows.length ? grid(head, rows) : element("p", { class: "quiet" }, none));

  /** @param {number} a @param {number} b */
  const ratio = (a, b) => {
    if (typeof a !== "number" || typeof b !== "number" || !(a > 0)) return "–";
    const percent = 100 * (b / a - 1);
    return `${percent < 0 ? "−" : "+"}${Math.abs(percent).toFixed(1)} %`;
  };

  const show = async () => {
    const { runs } = line(), page = (run) => runs.find(([each]) => each === run)[1];
    const [a, b] = await Promise.all([before.value, after.value].map((run) => load(run, page(run))));
    if (!a || !b) {
      part("compare-verdict").textContent = "What is known of one of these runs is missing: write the report anew.";
      return;
    }
    verdict(a, b);
    const names = [...new Set([...Object.keys(b.subject), ...Object.keys(a.subject)])].filter((name) => a.subject[name] !== b.subject[name]);
    table("compare-subject", ["input or program", "before", "after"], names.map((name) => [name, a.subject[name] ?? "none", b.subject[name] ?? "none"]), "Inputs, models and programs are the same.");
    const figures = Object.keys(TIMES).filter((name) => a.figures[name] || b.figures[name]).flatMap((name) => ["p50", "p95", "mean"].map((each) => {
      const [one, two] = [a, b].map((run) => run.figures[name]?.[each]);
      return [`${TIMES[name]} ${each}, s`, written(one, ""), written(two, ""), ratio(one, two)];
    }));
    figures.push(["throughput, outputs/min", written(a.throughput, ""), written(b.throughput, ""), ratio(a.throughput, b.throughput)]);
    table("compare-figures", ["figure", "before", "after", "change"], figures, "");
    nodes(a, b);
    draw(a, b);
  };

  const verdict = (a, b) => {
    const judged = b.baseline.includes(a.run);
    const target = part("compare-verdict");
    target.replaceChildren(...(judged
      ? [element("span", { class: `badge ${b.verdict}` }, b.verdict), ` ${b.sentence} `, element("span", { class: "quiet" }, `Against ${b.against}: ${b.baseline.length} runs, “before” among them.`)]
      : ["Two single runs tell no verdict: what follows is an effect, not a proof. ", element("span", { class: "quiet" }, `The later run’s own verdict, against ${b.against}: ${b.verdict}. ${b.sentence}`)]));
  };

  const nodes = (a, b) => {
    const names = [...new Set([...Object.keys(b.nodes), ...Object.keys(a.nodes)])];
    const p50 = (run, name) => run.nodes[name]?.[0] ?? null;
    names.sort((one, two) => (p50(b, two) ?? p50(a, two) ?? 0) - (p50(b, one) ?? p50(a, one) ?? 0));
    const most = Math.max(...names.flatMap((name) => [p50(a, name) || 0, p50(b, name) || 0]), 1e-9);
    const bars = (name) => {
      const space = "http://www.w3.org/2000/svg";
      const svg = document.createElementNS(space, "svg");
      for (const [key, value] of Object.entries({ class: "bar double", viewBox: "0 0 100 18", preserveAspectRatio: "none", "aria-hidden": "true" })) svg.setAttribute(key, value);
      [[a, 0, "before"], [b, 10, "after"]].forEach(([run, y, kind]) => {
        const rect = document.createElementNS(space, "rect");
        for (const [key, value] of Object.entries({ y, height: 8, width: (100 * (p50(run, name) || 0)) / most, class: kind })) rect.setAttribute(key, String(value));
        svg.append(rect);
      });
      return element("td", { class: "bars" }, svg);
    };
    table("compare-nodes", ["class", "before p50", "after p50", "change", "before over after"], names.map((name) =>
      [name, written(p50(a, name), "s"), written(p50(b, name), "s"), ratio(p50(a, name), p50(b, name)), bars(name)]), "No node times were kept.");
  };

  const draw = (a, b) => {
    const names = Object.keys(TIMES).filter((name) => a.distributions[name] && b.distributions[name]);
    const chosen = names.includes(which.value) ? which.value : names[0];
    which.replaceChildren(...names.map((name) => element("option", { value: name }, TIMES[name])));
    if (chosen) which.value = chosen;
    which.onchange = () => draw(a, b);
    chart?.remove();
    chart = null;
    if (!chosen) return;
    const both = [{ ...a.distributions[chosen], name: "before", color: "--c-before" }, { ...b.distributions[chosen], name: "after", color: "--c-1" }];
    comfyload.legend(figure.querySelector(".legend"), both.map(({ name, color }) => ({ name, color })));
    comfyload.table(figure, () => comfyload.quantiles(both, ["before", "after"]));
    chart = comfyload.ecdf(figure.querySelector(".ecdf"), both);
  };

  const fill = () => {
    const [a, b] = (state.read().get("compare") || "").split(",");
    const found = data.lines.find(({ runs }) => runs.some(([run]) => run === b));
    lines.replaceChildren(...data.lines.map(({ id, test, environment }) => element("option", { value: id }, `${test} — ${environment}`)));
    if (found) lines.value = found.id;
    fillRuns(a, b);
  };

  const change = () => {
    state.write({ compare: `${before.value},${after.value}` });
    show();
  };
  lines.onchange = () => {
    fillRuns(null, null);
    change();
  };
  before.onchange = after.onchange = change;
  part("compare-swap").onclick = () => {
    [before.value, after.value] = [after.value, before.value];
    change();
  };
  part("compare-controls").onsubmit = (event) => event.preventDefault();
  window.addEventListener("hashchange", () => {
    if (!location.hash.includes("compare=")) return;
    fill();
    show();
    part("compare")?.scrollIntoView();
  });
  fill();
  comfyload.whenSeen(part("compared"), () => {
    show();
    comfyload.onScheme(show);
  });
})();
