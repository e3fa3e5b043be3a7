// Shared by all pages: page data, number formatting, state in the URL hash, elements created without HTML text.
"use strict";

/** @type {Record<string, any>} */
const comfyload = (window.comfyload = {});
document.documentElement.classList.remove("no-script");

comfyload.PHASES = {
  sending: "--c-sending", queue: "--c-queue", "model load": "--c-load", sampling: "--c-sampling", decode: "--c-decode",
  save: "--c-save", "other nodes": "--c-other", delivery: "--c-delivery", fetch: "--c-fetch",
};

/** Return the data that a page embeds as JSON. @param {string} id @returns {any} */
comfyload.data = (id) => {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent || "null") : null;
};

/**
 * Create an element. A child that is not a node becomes text, never HTML.
 * @param {string} tag @param {Record<string, any>} attributes @param {any[]} children
 */
comfyload.element = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "onclick" || name === "onchange") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

// The finest resolution of a measurement: smaller values are shown as 0.
comfyload.RESOLUTION = 1e-4;

/** Format a value with three significant digits, as the terminal does. @param {any} value @param {string} unit */
comfyload.written = (value, unit) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value === "string") return value;
  if (unit === "B") {
    const [power, name] = Math.abs(value) >= 1024 ** 3 ? [3, "GiB"] : [2, "MiB"];
    return comfyload.written(value / 1024 ** power, name);
  }
  const known = Math.round(value / comfyload.RESOLUTION) * comfyload.RESOLUTION;
  const whole = Math.abs(value) >= 1000 || Number.isInteger(known);
  const digits = whole ? Math.round(value).toString() : Number(known.toPrecision(3)).toString();
  return `${digits.replace("-", "−")} ${unit}`.trim();
};

/** Format a time in UTC. @param {number|null} seconds since 1970 */
comfyload.date = (seconds, withTime = true) => {
  if (seconds === null || !Number.isFinite(seconds) || Math.abs(seconds) > 8e12) return "unknown";
  const text = new Date(seconds * 1000).toISOString();
  return withTime ? `${text.slice(0, 10)} ${text.slice(11, 16)} UTC` : text.slice(0, 10);
};

/** The state of the page, stored in the URL hash. */
comfyload.state = {
  /** @returns {URLSearchParams} */
  read: () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : ""),
  /** @param {Record<string, string|null>} changes null removes a name */
  write: (changes) => {
    const state = comfyload.state.read();
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === "") state.delete(name);
      else state.set(name, value);
    }
    const text = state.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  },
};

/** Call `draw` once, when the element comes near the viewport. @param {Element} element @param {() => void} draw */
comfyload.whenSeen = (element, draw) => {
  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      observer.disconnect();
      draw();
    }
  }, { rootMargin: "150px" });
  observer.observe(element);
  return observer;
};

/**
 * Fill a figure's table when its details are opened or printed.
 * @param {Element} figure with a `details.behind` @param {() => {head: string[], rows: any[][], note?: string}} content
 */
comfyload.table = (figure, content) => {
  /** @type {HTMLDetailsElement} */
  const details = figure.querySelector("details.behind");
  if (!details) return;
  const fill = () => {
    const { head, rows, note } = content();
    const table = comfyload.grid(head, rows);
    const scroll = details.querySelector(".scroll");
    scroll.replaceChildren(table, ...(note ? [comfyload.element("p", { class: "quiet" }, note)] : []));
  };
  details.ontoggle = () => details.open && fill();
  if (details.open) fill();
};

/** @param {string[]} head @param {any[][]} rows the first cell is the row's header; a TD is inserted unchanged */
comfyload.grid = (head, rows) => {
  const { element } = comfyload;
  const numeric = head.map((_, column) => column > 0 && rows.some((row) => /^[+−]?\d[\d.]*( \S+)?$/.test(row[column])));
  const cell = (value, column) => {
    if (value instanceof Node && value.nodeName === "TD") return value;
    return element(column ? "td" : "th", column ? { class: numeric[column] ? "n" : null } : { scope: "row" }, value ?? "–");
  };
  return element("table", {},
    element("thead", {}, element("tr", {}, ...head.map((name, column) => element("th", { scope: "col", class: numeric[column] ? "n" : null }, name)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell)))));
};

/** @returns {NodeListOf<HTMLDetailsElement>} */
const behind = () => document.querySelectorAll("details.behind");

window.addEventListener("beforeprint", () => {
  for (const details of behind()) {
    if (!details.open) details.dataset.printed = "1";
    details.open = true;
    details.dispatchEvent(new Event("toggle"));
  }
});
window.addEventListener("afterprint", () => {
  for (const details of behind()) {
    if (details.dataset.printed) details.open = false;
    delete details.dataset.printed;
  }
});

/** Fill a legend. @param {Element} list @param {{name: string, color: string, kind?: string, value?: string}[]} entries */
comfyload.legend = (list, entries) => {
  const { element } = comfyload;
  list.replaceChildren(...entries.map(({ name, color, kind, value }) => {
    const key = element("i", { class: `key ${kind || "line"}` });
    key.style.color = `var(${color})`;
    return element("li", {}, key, name, value ? element("b", {}, ` ${value}`) : null);
  }));
};

/** Download a text as a file. @param {string} text */
comfyload.save = (name, type, text) => {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = comfyload.element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
};
