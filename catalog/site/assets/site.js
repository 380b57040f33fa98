// The site's one script: search and filters of the list, the deploy dialog,
// the cost calculator, copying, and the theme. It asks for nothing but the
// parts of the index and sets text, never HTML.
"use strict";

// Money. Amounts are fractions of integers of any size, [numerator,
// denominator], so that every digit is right; package site (cost.go) is the
// definition that tests compare this with.

const MOST_DIGITS = 6;
const LEAST_DIGITS = 2;

function fraction(decimal) {
  const [whole, digits = ""] = decimal.split(".");
  return [BigInt(whole + digits), 10n ** BigInt(digits.length)];
}

function add([a, b], [c, d]) {
  return [a * d + c * b, b * d];
}

// money rounds to six digits behind the point, halves up.
function money([numerator, denominator]) {
  const scaled = (2n * numerator * 10n ** BigInt(MOST_DIGITS) + denominator) / (2n * denominator);
  const text = scaled.toString().padStart(MOST_DIGITS + 1, "0");
  let digits = text.slice(-MOST_DIGITS);
  while (digits.length > LEAST_DIGITS && digits.endsWith("0")) digits = digits.slice(0, -1);
  return text.slice(0, -MOST_DIGITS) + "." + digits;
}

// dayCost is what a day costs: prices by unit as {amount, per}, usage in
// BigInts {requests, input, cached, output}.
function dayCost(prices, usage) {
  const cached = usage.cached < usage.input ? usage.cached : usage.input;
  const units = [
    [prices.request, 1n],
    [prices.input_token, usage.input - cached],
    [prices.cached_input_token || prices.input_token, cached],
    [prices.output_token, usage.output],
  ];
  let total = [0n, 1n];
  for (const [price, count] of units) {
    if (!price) continue;
    const [numerator, denominator] = fraction(price.amount);
    total = add(total, [numerator * count * usage.requests, denominator * BigInt(price.per)]);
  }
  return total;
}

function times([a, b], n) {
  return [a * n, b];
}

function atLeast([a, b], [c, d]) {
  return a * d >= c * b;
}

// Numbers for people, as package site writes them.

function scaled(n, units, gap) {
  if (n < 1000) return n + gap;
  let i = -1;
  let size = 1;
  while (n / size >= 1000 && i + 1 < units.length) {
    size *= 1000;
    i++;
  }
  const digits = n / size >= 100 ? 0 : n / size >= 10 ? 1 : 2;
  const unit = BigInt(size);
  const rounded = (2n * BigInt(n) * 10n ** BigInt(digits) + unit) / (2n * unit); // halves up
  let text = rounded.toString();
  if (digits) text = text.slice(0, -digits) + "." + text.slice(-digits);
  if (text.includes(".")) text = text.replace(/0+$/, "").replace(/\.$/, "");
  return text + gap + units[i];
}

const bytesText = (n) => scaled(n, "kMGTP", " ") + "B";
const countText = (n) => scaled(n, "KMBT", "");
const tokensText = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const taskText = (s) => s.charAt(0).toUpperCase() + s.slice(1).replaceAll("-", " ");

// The index. A row is an array; these are its places.
const SLUG = 0, NAME = 1, VENDOR = 2, TASK = 3, TEXT = 4, PARAMETERS = 5, BYTES = 6, CONTEXT = 7, LICENSE = 8,
  PRICE_IN = 9, PRICE_OUT = 10, CURRENCY = 11, FLAGS = 12, UPDATED = 13, WORDS = 14;

function haystack(row) {
  return [row[SLUG], row[NAME], row[VENDOR], row[TASK], row[WORDS], row[TEXT]].join(" ").toLowerCase();
}

// matches says whether a row has all of the words and passes all filters.
function matches(row, text, words, filters, currency) {
  if (filters.task && row[TASK] !== filters.task) return false;
  if (filters.license && row[LICENSE] !== filters.license) return false;
  if (filters.size && !(row[BYTES] > 0 && row[BYTES] <= Number(filters.size))) return false;
  if (filters.context && row[CONTEXT] < Number(filters.context)) return false;
  if (filters.price && !(row[PRICE_IN] !== "" && row[CURRENCY] === currency && Number(row[PRICE_IN]) <= Number(filters.price))) return false;
  for (const flag of filters.flags) if (!row[FLAGS].includes(flag)) return false;
  return words.every((w) => text.includes(w));
}

const ORDERS = {
  "": (a, b) => (a[NAME].toLowerCase() < b[NAME].toLowerCase() ? -1 : a[NAME].toLowerCase() > b[NAME].toLowerCase() ? 1 : 0),
  size: (a, b) => (a[BYTES] || Infinity) - (b[BYTES] || Infinity),
  price: (a, b) => (a[PRICE_IN] === "" ? Infinity : Number(a[PRICE_IN])) - (b[PRICE_IN] === "" ? Infinity : Number(b[PRICE_IN])) || 0,
  context: (a, b) => b[CONTEXT] - a[CONTEXT],
  updated: (a, b) => (a[UPDATED] < b[UPDATED] ? 1 : a[UPDATED] > b[UPDATED] ? -1 : 0),
};

// element makes an element with attributes and children; texts become text.
function element(name, attributes, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  e.append(...children);
  return e;
}

function card(row, root) {
  const fact = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));
  return element("li", { class: "card" },
    element("h2", {}, element("a", { href: root + "models/" + row[SLUG] + ".html" }, row[NAME])),
    element("p", { class: "by" }, row[VENDOR] + " · " + taskText(row[TASK])),
    element("p", { class: "text" }, row[TEXT]),
    element("dl", { class: "facts" },
      fact("Weights", countText(row[PARAMETERS])),
      fact("Download", row[BYTES] ? bytesText(row[BYTES]) : "–"),
      fact("Context", tokensText(row[CONTEXT])),
      fact("Input / M", row[PRICE_IN] === "" ? "–" : row[PRICE_IN] + " " + row[CURRENCY])),
    element("p", { class: "chips" },
      element("span", { class: "chip license" }, row[LICENSE]),
      ...row[FLAGS].map((f) => element("span", { class: "chip " + f }, f))));
}

const PAGE = 60;

function startList(form) {
  const root = document.body.dataset.root;
  const index = JSON.parse(document.getElementById("index").textContent);
  const list = document.getElementById("cards");
  const status = document.getElementById("status");
  const more = document.getElementById("more");
  let rows = index.rows || [];
  let texts = rows.map(haystack);
  let loading = null;
  let found = [];
  let shown = 0;

  // load reads the parts of a large index, once, as the first search asks.
  async function load() {
    if (rows.length >= index.models) return;
    loading ||= (async () => {
      const all = [];
      for (const [i, part] of index.parts.entries()) {
        status.textContent = "Reading the list, part " + (i + 1) + " of " + index.parts.length + " …";
        const answer = await fetch(root + part);
        if (!answer.ok) throw new Error(part + ": " + answer.status);
        all.push(...(await answer.json()));
      }
      rows = all;
      texts = rows.map(haystack);
    })();
    await loading;
  }

  function filters() {
    const data = new FormData(form);
    const f = { flags: data.getAll("flag") };
    for (const name of ["q", "task", "size", "license", "context", "price", "sort"]) f[name] = data.get(name) || "";
    return f;
  }

  function remember(f) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(f)) {
      if (name === "flags") value.forEach((v) => query.append("flag", v));
      else if (value) query.set(name, value);
    }
    const text = query.toString();
    try {
      history.replaceState(null, "", text ? "?" + text : location.pathname);
    } catch { /* a page from a disk has no history of its own */ }
  }

  function draw(from) {
    const end = Math.min(found.length, from + PAGE);
    const cards = found.slice(from, end).map((row) => card(row, root));
    if (from === 0) list.replaceChildren(...cards);
    else list.append(...cards);
    if (found.length === 0) list.append(element("li", { class: "none" }, "No model fits. Take a filter away or search for fewer words."));
    shown = end;
    more.hidden = shown >= found.length;
    more.textContent = "Show more (" + tokensText(found.length - shown) + " left)";
  }

  let last = 0;
  async function search() {
    const mine = ++last;
    const f = filters();
    remember(f);
    try {
      await load();
    } catch (error) {
      loading = null;
      status.textContent = "The list could not be read: " + error.message + ". Serve the folder with a web server to search it.";
      return;
    }
    if (mine !== last) return; // a later search has begun
    const words = f.q.toLowerCase().split(/\s+/).filter(Boolean);
    found = rows.filter((row, i) => matches(row, texts[i], words, f, index.currency));
    if (ORDERS[f.sort]) found.sort(ORDERS[f.sort]);
    status.textContent = found.length === index.models ? tokensText(index.models) + (index.models === 1 ? " model" : " models")
      : tokensText(found.length) + " of " + tokensText(index.models) + " models";
    draw(0);
  }

  const query = new URLSearchParams(location.search);
  for (const [name, value] of query) {
    for (const field of form.elements) {
      if (field.name !== name) continue;
      if (field.type === "checkbox") field.checked ||= field.value === value;
      else field.value = value;
    }
  }
  form.hidden = false;
  let waiting;
  form.addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(search, event.target.name === "q" ? 120 : 0);
  });
  form.addEventListener("reset", () => setTimeout(search));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  more.addEventListener("click", () => {
    if (last === 0) {
      search().then(() => draw(shown));
      return;
    }
    const first = shown;
    draw(shown);
    list.children[first]?.querySelector("a")?.focus();
  });
  if (rows.length >= index.models || query.size) {
    search();
  } else {
    status.textContent = tokensText(index.models) + " models";
    more.hidden = false;
    more.textContent = "Show more";
  }
}

// The dialog: tabs by WAI-ARIA's pattern, moved through with the arrow keys.
function startDialog(dialog) {
  const open = document.getElementById("deploy-open");
  const tabs = [...dialog.querySelectorAll("[role=tab]")];
  function select(tab, focus) {
    for (const t of tabs) {
      const on = t === tab;
      t.setAttribute("aria-selected", on);
      t.tabIndex = on ? 0 : -1;
      document.getElementById(t.getAttribute("aria-controls")).hidden = !on;
    }
    if (focus) tab.focus({ preventScroll: true });
    const row = tab.parentElement;
    row.scrollLeft = tab.offsetLeft - (row.clientWidth - tab.offsetWidth) / 2;
  }
  for (const [i, tab] of tabs.entries()) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      select(tabs[(to + tabs.length) % tabs.length], true);
    });
  }
  function show() {
    if (dialog.open) return;
    dialog.showModal();
    select(tabs.find((t) => t.tabIndex === 0), true);
  }
  open.hidden = false;
  open.addEventListener("click", show);
  document.getElementById("deploy-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => open.focus());
  const wanted = /^#deploy(?:-(.+))?$/.exec(location.hash);
  if (wanted) {
    const tab = wanted[1] && document.getElementById("tab-" + wanted[1]);
    if (tab && tabs.includes(tab)) select(tab);
    show();
  }
}

function startCopying() {
  const said = document.getElementById("said");
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = button.closest(".code").querySelector("pre").textContent;
      let done = true;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        done = copyOld(text, button);
      }
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      if (said) said.textContent = done ? "Copied" : "Could not copy; the text is selected";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
}

// copyOld copies where the clipboard's interface is not allowed, and leaves
// the text selected where nothing is.
function copyOld(text, button) {
  const pre = button.closest(".code").querySelector("pre");
  getSelection().selectAllChildren(pre);
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  }
}

// number reads a whole number; spaces and commas between digits are let pass.
function number(text) {
  const digits = text.replace(/[\s,_']/g, "");
  return /^\d{1,15}$/.test(digits) ? BigInt(digits) : null;
}

function startCalculator(form) {
  const costs = JSON.parse(document.getElementById("costs").textContent);
  const result = document.getElementById("c-result");
  const field = (name) => form.elements[name];
  function calculate() {
    const tier = costs.tiers.find((t) => t.tier === (field("tier") ? field("tier").value : costs.tiers[0].tier)) || costs.tiers[0];
    document.getElementById("c-cached-field").hidden = !tier.prices.cached_input_token;
    const usage = {};
    let bad = null;
    for (const name of ["requests", "input", "cached", "output"]) {
      usage[name] = number(field(name).value);
      field(name).setAttribute("aria-invalid", usage[name] === null);
      if (usage[name] === null) bad ||= field(name);
    }
    if (bad) {
      result.replaceChildren(element("p", { class: "error" }, bad.labels[0].textContent + ": want a whole number of at most 15 digits."));
      return;
    }
    if (!tier.prices.cached_input_token) usage.cached = 0n;
    const day = dayCost(tier.prices, usage);
    const month = times(day, BigInt(costs.days_per_month));
    const amount = (of, what) => element("div", {}, element("b", {}, money(of) + " " + tier.currency), element("span", {}, what));
    result.replaceChildren(
      amount(day, "a day"),
      amount(month, "a month of " + costs.days_per_month + " days"));
    if (usage.requests > 0n) result.append(amount(times([day[0], day[1] * usage.requests], 1000n), "for 1 000 requests"));
    const alarm = costs.alarm;
    if (alarm && alarm.currency === tier.currency) {
      const threshold = fraction(alarm.threshold);
      const cost = alarm.period === "day" ? day : month;
      const over = atLeast(cost, threshold);
      result.append(element("p", { class: over ? "over" : "ok" }, over
        ? "Reaches the budget alarm of " + alarm.threshold + " " + alarm.currency + " a " + alarm.period + "."
        : "Below the budget alarm of " + alarm.threshold + " " + alarm.currency + " a " + alarm.period + "."));
    }
  }
  const query = new URLSearchParams(location.search);
  for (const name of ["tier", "requests", "input", "cached", "output"]) {
    if (query.has(name) && field(name)) field(name).value = query.get(name);
  }
  form.hidden = false;
  form.addEventListener("input", calculate);
  form.addEventListener("submit", (event) => event.preventDefault());
  calculate();
}

const THEMES = ["auto", "light", "dark"];

function startTheme(button) {
  const root = document.documentElement;
  function stored() {
    try {
      return THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto";
    } catch {
      return "auto";
    }
  }
  function apply(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    if (button) button.querySelector("span").textContent = theme;
  }
  let theme = stored();
  apply(theme);
  if (!button) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem("theme", theme);
    } catch { /* it holds for this page */ }
    apply(theme);
  });
}

if (typeof document === "undefined") {
  module.exports = { dayCost, times, money, fraction, atLeast, matches, haystack, bytesText, countText, tokensText, number };
} else {
  startTheme(document.getElementById("theme"));
  const filters = document.getElementById("filters");
  if (filters) startList(filters);
  const dialog = document.getElementById("deploy");
  if (dialog) startDialog(dialog);
  const calculator = document.getElementById("calculator");
  if (calculator) startCalculator(calculator);
  startCopying();
}
