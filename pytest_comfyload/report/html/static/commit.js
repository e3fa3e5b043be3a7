// The page of a commit: the prompts of each run over time.
"use strict";

(() => {
  const { element, written } = comfyload;

  // --- time ---

  const timeline = (run, data) => {
    const figure = run.querySelector('[data-chart="timeline"]');
    const ends = Object.values(data.segments).map((columns) => columns[2].reduce((most, end) => Math.max(most, end), 0));
    const end = Math.max(data.window[1] || 0, ...ends) || 1;
    const whole = [-0.01 * end, 1.01 * end];
    comfyload.table(figure, () => promptTable(data));
    return [figure, () => phasesChart(figure.querySelector(".plot.phases"), figure.querySelector(".phase-legend"), data, whole)];
  };

  /** Show one cursor across all lanes of a run, with the time. */
  const cursor = (lanes) => {
    const line = lanes.querySelector(".cursor"), seconds = Number(lanes.dataset.seconds);
    lanes.addEventListener("pointermove", (event) => {
      const box = lanes.querySelector("svg").getBoundingClientRect(), place = event.clientX - box.left;
      line.hidden = place < 0 || place > box.width;
      line.style.left = `${event.clientX - lanes.getBoundingClientRect().left}px`;
      line.firstElementChild.textContent = written((seconds * place) / box.width, "s");
    });
    lanes.addEventListener("pointerleave", () => (line.hidden = true));
  };

  const promptTable = (data) => ({
    head: ["prompt", "user", "iteration", "status", "total", "text"],
    rows: data.drawn.map(([id, user, iteration, status, total, text]) => [id, String(user), String(iteration), status, written(total, "s"), text]),
    note: data.drawn.length < data.prompts ? `${data.drawn.length} of ${data.prompts} prompts, evenly picked.` : "",
  });

  const phasesChart = (plot, legend, data, whole) => {
    const count = data.drawn.length;
    const first = data.drawn.map(() => Infinity), last = data.drawn.map(() => -Infinity);
    for (const [prompts, begins, ends] of Object.values(data.segments)) {
      prompts.forEach((prompt, place) => {
        first[prompt] = Math.min(first[prompt], begins[place]);
        last[prompt] = Math.max(last[prompt], ends[place]);
      });
    }
    const names = Object.keys(comfyload.PHASES).filter((name) => data.segments[name]);
    comfyload.legend(legend, names.map((name) => ({ name, color: comfyload.PHASES[name], kind: "area" })));
    // "other nodes" spans the whole generation; the phases within it are drawn on top.
    const order = ["other nodes", ...names.filter((name) => name !== "other nodes")].filter((name) => data.segments[name]);
    return new comfyload.Chart(plot, {
      unit: "", x: first, whole, height: Math.max(140, Math.min(520, 60 + count * 16)), bare: true, inverted: true, xLabel: "seconds into the run",
      vertical: () => [-0.7, count - 0.3],
      nearest: (_, y) => (Math.round(y) >= 0 && Math.round(y) < count ? Math.round(y) : null),
      draw: (plot) => {
        for (const name of order) {
          const [prompts, begins, ends] = data.segments[name];
          plot.bars(begins, ends, prompts, count > 150 ? 1 : 0.78, comfyload.PHASES[name]);
        }
        const failed = data.drawn.map((_, prompt) => prompt).filter((prompt) => data.drawn[prompt][3] !== "success");
        plot.dots(failed.map((prompt) => (Number.isFinite(last[prompt]) ? last[prompt] : 0)), failed, { color: "--bad", size: 8, shape: "cross", edge: 2 });
      },
      tip: (prompt) => {
        const [id, user, iteration, status, total, text] = data.drawn[prompt];
        const parts = names.flatMap((name) => {
          const [prompts, begins, ends] = data.segments[name];
          const seconds = prompts.reduce((sum, each, place) => (each === prompt ? sum + ends[place] - begins[place] : sum), 0);
          const inside = name === "other nodes" ? ["model load", "sampling", "decode", "save"] : [];
          const less = inside.filter((each) => data.segments[each]).reduce((sum, each) => sum + data.segments[each][0].reduce((all, other, place) =>
            (other === prompt ? all + data.segments[each][2][place] - data.segments[each][1][place] : all), 0), 0);
          return seconds > 0 ? [element("dt", {}, name), element("dd", {}, written(Math.max(0, seconds - less), "s"))] : [];
        });
        return [element("p", { class: "tip-title" }, `prompt ${id}`), element("p", { class: status === "success" ? "quiet" : "tip-bad" }, `${status} · user ${user}, iteration ${iteration} · total ${written(total, "s")}`),
          element("dl", {}, ...parts), text ? element("p", { class: "quiet" }, text) : null].filter(Boolean);
      },
    });
  };

  // --- set-up ---

  document.querySelectorAll(".lanes").forEach(cursor);
  for (const run of document.querySelectorAll("article.run")) {
    const block = run.querySelector("script.run-data");
    if (!block) continue;
    const [figure, draw] = timeline(run, JSON.parse(block.textContent));
    comfyload.whenSeen(figure, draw);
  }
})();
