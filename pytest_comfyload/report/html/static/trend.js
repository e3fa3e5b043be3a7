// The trend: the figures of one scenario in one environment over its runs.
"use strict";

(() => {
  const data = comfyload.data("trend-data");
  if (!data) return;
  const { element, written, date, state } = comfyload;
  const COLORS = ["--c-1", "--c-2", "--c-3"];
  const root = document.body.dataset.root || "";
  const single = document.body.dataset.single === "1";
  /** @param {string} id @returns {any} */
  const control = (id) => document.getElementById(id);
  /** @type {any[]} */
  let charts = [];
  /** @type {any} */
  let link = null;
  /** @type {any} */
  let now = null;

  // --- selection of runs ---

  /** @param {any[]} options [value, text] @param {string|null} chosen */
  const fill = (select, options, chosen) => {
    select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    if (options.some(([value]) => value === chosen)) select.value = chosen;
  };

  const chosenLine = () => {
    const wanted = state.read().get("line") ?? data.first;
    return data.lines.find((line) => line.id === wanted) || data.lines[0];
  };

  const fillControls = () => {
    const line = chosenLine(), asked = state.read();
    fill(control("test"), [...new Set(data.lines.map((each) => each.test))].map((test) => [test, test]), line.test);
    const same = data.lines.filter((each) => each.test === line.test);
    fill(control("environment"), same.map((each) => [each.id, each.environment]), line.id);
    control("environment").disabled = same.length < 2;
    const branches = line.branches.map((branch) => [branch ?? "", branch ?? "no branch"]);
    const fallback = line.branches.includes(data.main) ? data.main ?? "" : "*";
    fill(control("branch"), [["*", "all branches"], ...branches], asked.get("branch") ?? fallback);
    control("spacing").value = asked.get("x") === "date" ? "date" : "even";
    control("scale").value = ["zero", "log"].includes(asked.get("y")) ? asked.get("y") : "fit";
  };

  /** Return the running maximum. @param {number[]} values */
  const running = (values) => {
    let most = -Infinity;
    return values.map((value) => (most = Math.max(most, value)));
  };

  /** Return the rows to draw, those of the line on the chosen branch, with their positions. */
  const selection = () => {
    const line = chosenLine(), branch = control("branch").value, dates = control("spacing").value === "date";
    const rows = line.time.map((_, row) => row)
      .filter((row) => branch === "*" || (line.branches[line.branch[row]] ?? "") === branch);
    const moment = (row) => 1000 * (data.commits.date[line.commit[row]] ?? line.time[row]);
    // After a rebase, a commit may be dated before its parents; it is drawn no earlier than they are.
    const x = dates ? running(rows.map(moment)) : rows.map((_, place) => place);
    const first = x[0] ?? 0, last = x[x.length - 1] ?? 1;
    const pad = dates ? Math.max(3.6e6, (last - first) * 0.02) : Math.max(0.5, rows.length * 0.01);
    const whole = [first - pad, last + pad];
    return { line, rows, x, dates, whole, places: new Map(rows.map((row, place) => [row, place])) };
  };

  /** @param {string} name @returns {number[]} with NaN where there is no finite value */
  const column = (name) => {
    const values = now.line.figures[name];
    return now.rows.map((row) => (values && typeof values[row] === "number" ? values[row] : NaN));
  };

  /** Return the bounds of a panel's lines, each with its value at each run. @param {any} panel */
  const boundsOf = (panel) => panel.lines.flatMap(([name, short], number) =>
    Object.entries(now.line.bounds[name] || {}).map(([op, steps]) => {
      let step = -1;
      const all = now.line.time.map((_, row) => {
        if (step + 1 < steps.length && steps[step + 1][0] <= row) step += 1;
        return step < 0 || typeof steps[step][1] !== "number" ? NaN : steps[step][1];
      });
      return { number, short, op, values: now.rows.map((row) => all[row]) };
    })).filter(({ values }) => values.some(Number.isFinite));

  const MET = {
    "<": (value, bound) => value < bound, "<=": (value, bound) => value <= bound, ">": (value, bound) => value > bound,
    ">=": (value, bound) => value >= bound, "==": (value, bound) => value === bound, "!=": (value, bound) => value !== bound,
  };

  const usable = (row) => now.line.state[row] < 2;

  // --- one panel ---

  /** @param {any} panel one of `data.panels` */
  const spec = (panel) => {
    const scale = control("scale").value, log = scale === "log" && panel.id !== "failures" && panel.id !== "utilization";
    const part = panel.unit === "B" ? 1024 ** 3 : 1;
    const columns = panel.lines.map(([name]) => column(name).map((value) => value / part));
    const bounds = boundsOf(panel).map((each) => ({ ...each, values: each.values.map((bound) => bound / part) }));
    const zero = scale === "zero" || panel.id === "failures";
    const { x } = now;
    const vertical = (low, high) => {
      const inView = (values) => values.filter((_, place) => x[place] >= low && x[place] <= high);
      return comfyload.room([...columns, ...bounds.map(({ values }) => values)].flatMap(inView).concat(panel.zone || []), { zero, log });
    };
    return {
      unit: panel.unit === "B" ? "GiB" : panel.unit, x, dates: now.dates, log, whole: now.whole, view: view(), vertical, link,
      ticks: now.dates ? undefined : ticks,
      draw: (plot) => drawPanel(plot, panel, columns, bounds),
      tip: (index) => tip(panel, index),
      pick: open,
    };
  };

  const view = () => {
    const asked = state.read(), from = Number(asked.get("from")), to = Number(asked.get("to"));
    return asked.has("from") && asked.has("to") && from < to ? [from, to] : now.whole;
  };

  /** @param {number} low @param {number} high @param {number} about */
  const ticks = (low, high, about) => {
    const first = Math.max(0, Math.ceil(low)), last = Math.min(now.rows.length - 1, Math.floor(high));
    const step = Math.max(1, Math.ceil((last - first + 1) / about));
    const found = [];
    for (let place = first; place <= last; place += step) {
      const commit = now.line.commit[now.rows[place]];
      const day = date(data.commits.date[commit] ?? now.line.time[now.rows[place]], false);
      found.push({ at: place, text: `${data.commits.name[commit].slice(0, 7) || "no commit"}\n${day}` });
    }
    return found;
  };

  const drawPanel = (plot, panel, columns, bounds) => {
    const { x } = now;
    if (panel.zone) plot.zone(...panel.zone, { color: "--good", alpha: 0.12 });
    const solid = columns.map((values) => values.map((value, place) => (usable(now.rows[place]) ? value : NaN)));
    if (panel.band && columns.length > 1) plot.area(x, solid[0], solid[1], { color: COLORS[0], alpha: 0.12 });
    levels(plot, panel);
    columns.forEach((values, number) => {
      const color = COLORS[number];
      plot.line(x, solid[number], { color, width: number ? 1.2 : 1.8, alpha: number > 1 ? 0.7 : 1 });
      if (x.length <= 250) plot.dots(x, solid[number], { color, size: number ? 3.5 : 5 });
      plot.dots(x, values.map((value, place) => (usable(now.rows[place]) ? NaN : value)), { color: "--muted", size: 6, shape: "cross" });
    });
    for (const bound of bounds) drawBound(plot, bound, columns[bound.number]);
    tags(plot);
  };

  /** Draw a bound's value at each run, in the colour of its curve, and ring the runs that violate it. */
  const drawBound = (plot, { number, op, values }, column) => {
    const { x, whole } = now, last = x.length - 1;
    const edges = x.flatMap((at, place) => [place ? (x[place - 1] + at) / 2 : whole[0], place < last ? (at + x[place + 1]) / 2 : whole[1]]);
    plot.line(edges, values.flatMap((bound) => [bound, bound]), { color: COLORS[number], width: 1.6, dash: "6 4" });
    const beyond = column.map((value, place) => (Number.isFinite(values[place]) && MET[op] && !MET[op](value, values[place]) ? value : NaN));
    plot.dots(x, beyond, { color: "--bad", size: x.length <= 100 ? 8 : 4, fill: "none" });
  };

  /** Draw the change points, and the medians before and after them. */
  const levels = (plot, panel) => {
    const gate = panel.lines.some(([name]) => name === now.line.gate[0]);
    const marks = now.line.marks.filter((mark) => now.places.has(mark.at));
    const edge = (mark) => now.x[now.places.get(mark.at)] - (now.dates ? 0 : 0.5);
    marks.forEach((mark, number) => {
      const worse = (mark.after > mark.before) !== /throughput|success/.test(now.line.gate[0]);
      const color = mark.accepted ? "--muted" : worse ? "--bad" : "--good";
      plot.rule(edge(mark), { color, width: gate ? 1.5 : 1, alpha: gate ? 0.9 : 0.35, dash: mark.accepted ? "" : "2 3" });
      if (!gate) return;
      const level = (from, to, value) => plot.line([from, to], [value, value], { color, width: 2.5, alpha: 0.6 });
      if (!number) level(now.whole[0], edge(mark), mark.before);
      level(edge(mark), number + 1 < marks.length ? edge(marks[number + 1]) : now.whole[1], mark.after);
    });
  };

  const tags = (plot) => {
    const seen = new Set();
    now.rows.forEach((row, place) => {
      const tag = data.commits.tag[now.line.commit[row]];
      if (!tag || seen.has(tag)) return;
      seen.add(tag);
      plot.rule(now.x[place], { color: "--rule-strong" });
      const right = place > 0.85 * now.rows.length;
      plot.text(now.x[place], null, tag.slice(0, 20), { anchor: right ? "end" : "start", dx: right ? -3 : 3 });
    });
  };

  // --- tooltips and links ---

  /** @param {any} panel @param {number} index */
  const tip = (panel, index) => {
    const row = now.rows[index], { line } = now, commit = line.commit[row];
    const lines = [element("p", { class: "tip-title" }, data.commits.title[commit] || "a run without commit")];
    const dirty = line.dirty.includes(row) ? " + uncommitted changes" : "";
    lines.push(element("p", { class: "quiet" }, [data.commits.name[commit] + dirty, data.commits.author[commit], date(data.commits.date[commit] ?? line.time[row])].filter(Boolean).join(" · ")));
    const names = [data.commits.tag[commit], line.branches[line.branch[row]]].filter(Boolean);
    if (names.length) lines.push(element("p", { class: "quiet" }, names.join(" · ")));
    if (line.state[row]) lines.push(element("p", { class: "tip-bad" }, `this run is ${data.states[line.state[row]]}`));
    lines.push(element("dl", {}, ...panel.lines.flatMap(([name, short]) =>
      [element("dt", {}, short), element("dd", {}, written(line.figures[name]?.[row], panel.unit))])));
    const mark = line.marks.find((each) => each.at === row);
    if (mark) lines.push(element("p", { class: "tip-change" }, markText(mark)));
    for (const change of line.changes[row] || []) lines.push(element("p", { class: "tip-change" }, change));
    if (data.commits.page[commit]) lines.push(element("p", { class: "quiet" }, "click or Enter: its commit"));
    return lines;
  };

  const markText = (mark) => {
    const change = typeof mark.change === "number" ? ` (${mark.change > 0 ? "+" : "−"}${Math.abs(mark.change)} %)` : "";
    const said = mark.accepted ? `accepted: ${mark.accepted}` : "not judged yet";
    return `change point: median ${written(mark.before, now.line.gate[1])} → ${written(mark.after, now.line.gate[1])}${change}, ${said}`;
  };

  /** @param {number} index */
  const open = (index) => {
    const commit = now.line.commit[now.rows[index]];
    if (!data.commits.page[commit]) return;
    if (single) document.getElementById(`commit-${data.commits.id[commit]}`)?.closest("details")?.setAttribute("open", "");
    location.href = pageOf(commit);
  };

  /** Return the address of a commit. @param {number} commit */
  const pageOf = (commit) => (single ? `#commit-${data.commits.id[commit]}` : `${root}commits/${data.commits.id[commit]}.html`);

  // --- page ---

  const table = (panel) => () => {
    const most = matchMedia("print").matches ? 25 : 1000;
    const rows = now.rows.slice(-most).reverse().map((row) => {
      const commit = now.line.commit[row];
      const name = data.commits.name[commit] || "no commit";
      const linked = data.commits.page[commit] ? element("a", { href: pageOf(commit) }, name) : name;
      const marked = now.line.marks.find((each) => each.at === row);
      return [date(now.line.time[row]), linked, data.commits.title[commit], data.states[now.line.state[row]],
        ...panel.lines.map(([figure]) => written(now.line.figures[figure]?.[row], panel.unit)),
        [marked ? markText(marked) : "", ...(now.line.changes[row] || [])].filter(Boolean).join("; ") || ""];
    });
    const note = now.rows.length > most ? `The newest ${most} of ${now.rows.length} runs; the CSV has them all.` : "";
    return { head: ["run", "commit", "title", "state", ...panel.lines.map(([, short]) => short), "what changed"], rows, note };
  };

  const drawPanels = () => {
    charts.forEach((chart) => (chart.remove ? chart.remove() : chart.disconnect()));
    charts = [];
    link = new comfyload.Link();
    link.onview = (low, high) => {
      const all = low === now.whole[0] && high === now.whole[1];
      control("reset").disabled = all;
      state.write(all ? { from: null, to: null } : { from: low.toFixed(2), to: high.toFixed(2) });
    };
    control("reset").disabled = view() === now.whole;
    const absent = [];
    for (const panel of data.panels) {
      const figure = control(`panel-${panel.id}`), plot = figure.querySelector(".plot");
      const measured = panel.lines.some(([name]) => column(name).some(Number.isFinite));
      figure.hidden = !measured;
      plot.replaceChildren();
      if (!measured) {
        absent.push(panel.title);
        continue;
      }
      key(panel, figure.querySelector(".legend"));
      comfyload.table(figure, table(panel));
      charts.push(comfyload.whenSeen(plot, () => charts.push(new comfyload.Chart(plot, spec(panel)))));
    }
    control("absent").textContent = absent.length ? `Not measured in these runs: ${absent.join(", ")}.` : "";
  };

  const key = (panel, list) => {
    const last = now.rows[now.rows.length - 1];
    const entries = panel.lines.flatMap(([name, short], number) => now.line.figures[name]
      ? [{ name: short, color: COLORS[number], value: written(now.line.figures[name][last], panel.unit) }] : []);
    for (const { number, short, op, values } of boundsOf(panel)) {
      const known = values.filter(Number.isFinite), bound = known[known.length - 1];
      const earlier = [...new Set(known)].filter((value) => value !== bound);
      const was = earlier.length ? `, before ${earlier.slice(-2).map((value) => written(value, panel.unit)).join(", ")}` : "";
      entries.push({ name: `SLO ${short} ${op} ${written(bound, panel.unit)}${was}`, color: COLORS[number], kind: "dashed" });
    }
    if (panel.zone) entries.push({ name: `${panel.zone[0]}–${panel.zone[1]} %`, color: "--good", kind: "area" });
    comfyload.legend(list, entries);
  };

  const draw = () => {
    now = selection();
    const { line, rows } = now;
    const simulated = line.simulated ? "SIMULATED · " : "";
    const marks = line.marks.filter((mark) => now.places.has(mark.at));
    control("shown").textContent = `${simulated}${rows.length} run${rows.length === 1 ? "" : "s"}${marks.length ? ` · ${marks.length} change point${marks.length > 1 ? "s" : ""}; the last: ${markText(marks[marks.length - 1]).replace("change point: ", "")}` : ""}`;
    drawPanels();
  };

  const changed = (changes) => {
    state.write({ from: null, to: null, ...changes });
    fillControls();
    draw();
  };

  control("test").onchange = (event) => changed({ line: data.lines.find((line) => line.test === event.target.value).id, branch: null });
  control("environment").onchange = (event) => changed({ line: event.target.value, branch: null });
  control("branch").onchange = (event) => changed({ branch: event.target.value });
  control("spacing").onchange = (event) => changed({ x: event.target.value === "date" ? "date" : null });
  control("scale").onchange = (event) => changed({ y: event.target.value === "fit" ? null : event.target.value });
  control("reset").onclick = () => {
    link.view(...now.whole);
  };
  control("controls").onsubmit = (event) => event.preventDefault();
  window.addEventListener("hashchange", () => {
    if (!location.hash.includes("line=")) return;
    fillControls();
    draw();
    control("history").scrollIntoView();
  });

  // --- export ---

  const exported = () => now.rows.map((row) => {
    const commit = now.line.commit[row];
    const figures = Object.fromEntries(Object.entries(now.line.figures).map(([name, values]) => [name, values[row]]));
    return {
      time: date(now.line.time[row]), commit: data.commits.name[commit], dirty: now.line.dirty.includes(row),
      branch: now.line.branches[now.line.branch[row]], tag: data.commits.tag[commit], title: data.commits.title[commit],
      author: data.commits.author[commit], state: data.states[now.line.state[row]], ...figures,
    };
  });

  // Text that a spreadsheet would evaluate as a formula is prefixed with an apostrophe.
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };

  control("csv").onclick = () => {
    const rows = exported(), names = Object.keys(rows[0] || {});
    comfyload.save("comfyload.csv", "text/csv", [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => row.map(cell).join(",")).join("\r\n"));
  };
  control("json").onclick = () => comfyload.save("comfyload.json", "application/json",
    JSON.stringify({ test: now.line.test, environment: now.line.environment, simulated: now.line.simulated, runs: exported() }, null, 1));

  fillControls();
  draw();
  performance.mark("comfyload-trend");
})();
