// Pictures of two sides, one over the other, with a slider between them.
"use strict";

for (const slider of document.querySelectorAll(".pair-of .slider")) {
  const range = slider.querySelector("input"), above = /** @type {HTMLElement} */ (slider.querySelector(".b"));
  const slide = () => above.style.setProperty("--at", `${range.value}%`);
  range.addEventListener("input", slide);
  slide();
}
