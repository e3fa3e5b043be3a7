// Image pairs: one image over the other, with a slider to compare them.
"use strict";

for (const slider of document.querySelectorAll(".pair-of .slider")) {
  const range = slider.querySelector("input"), above = /** @type {HTMLElement} */ (slider.querySelector(".b"));
  const slide = () => above.style.setProperty("--at", `${range.value}%`);
  range.addEventListener("input", slide);
  slide();
}
