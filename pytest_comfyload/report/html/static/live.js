"use strict";
// Added by `comfyload report --serve`: shows what is running, and reloads the page when the report has changed.
(() => {
  const place = document.getElementById("live");
  if (!place) return;
  /** @type {number | null} */
  let version = null;

  /** @param {string} text */
  const show = (text) => {
    place.textContent = text;
    place.hidden = !text;
  };

  const look = async () => {
    try {
      const state = await (await fetch("/_live", { cache: "no-store" })).json();
      if (version !== null && state.version !== version) {
        location.reload();
        return;
      }
      version = state.version;
      show(state.running.join("\n"));
    } catch {
      show("comfyload report --serve has ended: this page no longer changes");
    }
    setTimeout(look, 1000);
  };

  look();
})();
