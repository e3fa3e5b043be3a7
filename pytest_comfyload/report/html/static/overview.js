// The rows of the overview: search and filters, stored in the URL hash.
"use strict";

(() => {
  /** @param {string} id @returns {any} */
  const control = (id) => document.getElementById(id);
  const form = control("filters");
  if (!form) return;
  const { state } = comfyload;
  /** @type {any[]} */
  const rows = [...document.querySelectorAll("#scenarios .scenario")];
  /** @type {any} */
  const folded = document.querySelector(".folded");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  /** @type {any[]} */
  const boxes = [...form.querySelectorAll("input[type=checkbox]")];

  const apply = () => {
    const words = control("filter-words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let count = 0;
    rows.forEach((row, number) => {
      row.hidden = !shown.has(row.dataset.status) || !words.every((word) => texts[number].includes(word));
      count += row.hidden ? 0 : 1;
    });
    if (folded) {
      folded.hidden = ![...folded.querySelectorAll(".scenario")].some((row) => !row.hidden);
      // A search shows its matches, even folded ones.
      if (words.length) folded.open = true;
    }
    control("filter-count").textContent = count === rows.length ? "" : `${count} of ${rows.length} scenarios`;
    const left = boxes.filter((box) => !box.checked).map((box) => box.value);
    state.write({ q: control("filter-words").value || null, hide: left.join(",") || null });
  };

  const asked = state.read();
  control("filter-words").value = asked.get("q") ?? "";
  const hidden = (asked.get("hide") ?? "").split(",");
  for (const box of boxes) box.checked = !hidden.includes(box.value);
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  if (asked.has("q") || asked.has("hide")) apply();
})();
