"use strict";
// Every text of the data reaches the page as a text node, never as markup.
const page = JSON.parse(document.getElementById("data").textContent);
const { classes, attributes, stats } = page;
const ROW = 52;
const CHUNK = 60;
const SPLITS = { train: "training", val: "validation", test: "test" };
const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");
const percent = (value) => `${(100 * value).toFixed(1)}%`;
const fixed = (value, digits = 2) =>
  value === null ? "–" : value.toFixed(digits).replace(/^-(0\.0*)$/, "$1").replace("-", "−");
// Of a folder's path its end says enough.
const shortPath = (path) =>
  /^([/.~]|[A-Za-z]:)/.test(path) ? path.split(/[\\/]/).slice(-2).join("/") : path;

// For each attribute the classes that attend to it, and how much: the other way of looking.
const users = attributes.map(() => []);
classes.forEach((c, i) => c.attributes.forEach(([n, weight]) => users[n].push([i, weight])));
users.forEach((list) => list.sort((a, b) => b[1] - a[1] || a[0] - b[0]));
// What is said of a class, or of the super-class that it is described by.
const wordsOf = (c) => page.words[c.words];
const classOf = new Map(classes.map((c, i) => [c.name, i]));

const state = { search: "", kind: "class", chosen: null, active: -1, found: [] };

function el(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties || {})) {
    if (key === "style") Object.assign(node.style, value);
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(key, value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== ""));
  return node;
}

// --- addresses: #class=NAME or #attribute=N, with &search=WORDS and &list=attribute ---

function readHash() {
  const found = {};
  for (const part of location.hash.slice(1).split("&")) {
    const at = part.indexOf("=");
    try {
      if (at > 0) found[part.slice(0, at)] = decodeURIComponent(part.slice(at + 1));
    } catch {
      // Not percent-encoded: taken as it was typed.
      found[part.slice(0, at)] = part.slice(at + 1);
    }
  }
  return found;
}

function hashOf(kind, index) {
  const parts = [];
  if (index !== null) {
    parts.push(`${kind}=${encodeURIComponent(kind === "class" ? classes[index].name : index)}`);
  }
  if (state.search) parts.push(`search=${encodeURIComponent(state.search)}`);
  if (state.kind === "attribute") parts.push("list=attribute");
  return `#${parts.join("&")}`;
}

function link(kind, index, properties, ...children) {
  return el("a", { href: hashOf(kind, index), ...properties }, ...children);
}

// --- search ---

const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const folded = { class: null, attribute: null };

function haystack(kind) {
  // Folding 11,000 classes takes a moment, which only a search is worth.
  folded[kind] ??=
    kind === "class"
      ? classes.map((c) => [fold(c.name), fold(wordsOf(c).descriptions.join("\n"))])
      : attributes.map((a, n) => [`#${n}`, fold(a.sentences.join("\n"))]);
  return folded[kind];
}

const words = () => fold(state.search).split(/\s+/).filter(Boolean);

function find() {
  const wanted = words();
  const total = (state.kind === "class" ? classes : attributes).length;
  if (!wanted.length) return [...Array(total).keys()];
  const inName = [];
  const inText = [];
  haystack(state.kind).forEach(([name, text], i) => {
    if (wanted.every((word) => name.includes(word))) inName.push(i);
    else if (wanted.every((word) => name.includes(word) || text.includes(word))) inText.push(i);
  });
  return inName.concat(inText);
}

function marked(text) {
  const wanted = state.search.split(/\s+/).filter(Boolean);
  if (!wanted.length) return [text];
  const escaped = wanted.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return text
    .split(new RegExp(`(${escaped.join("|")})`, "gi"))
    .map((part, i) => (i % 2 ? el("mark", null, part) : part));
}

// The sentence that says why the row was found, where its name does not say all.
function snippet(sentences, name) {
  const unsaid = words().filter((word) => !fold(name).includes(word));
  const has = (text) => unsaid.some((word) => fold(text).includes(word));
  return sentences.find(has) || sentences[0] || "";
}

function refresh() {
  state.found = find();
  state.active = -1;
  byId("list").scrollTop = 0;
  const total = (state.kind === "class" ? classes : attributes).length;
  const what = state.kind === "class" ? "classes" : "attributes";
  byId("count").textContent = state.search
    ? `${number(state.found.length)} of ${number(total)} ${what}`
    : `${number(total)} ${what}`;
  for (const kind of ["class", "attribute"]) {
    byId(`kind-${kind}`).setAttribute("aria-pressed", state.kind === kind);
  }
  drawRows();
}

// --- the list: only the rows in view are in the document ---

function row(position) {
  const { kind, chosen } = state;
  const index = state.found[position];
  const selected = chosen !== null && chosen.kind === kind && chosen.index === index;
  const texts = kind === "class" ? wordsOf(classes[index]).descriptions : attributes[index].sentences;
  const title = kind === "class" ? classes[index].name : snippet(texts, "");
  const below = kind === "class" ? marked(snippet(texts, title))
    : [el("span", { class: "tag" }, `#${index}`), ` · ${number(users[index].length)} classes`];
  return link(kind, index, {
    id: `row-${position}`, class: position === state.active ? "row active" : "row",
    role: "option", tabindex: "-1", "aria-selected": String(selected),
    "aria-posinset": position + 1, "aria-setsize": state.found.length,
    style: { top: `${position * ROW}px` },
  }, el("b", null, marked(title)), el("small", null, below));
}

function drawRows() {
  const list = byId("list");
  const height = list.clientHeight || 600;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
  const last = Math.min(state.found.length, Math.ceil((list.scrollTop + height) / ROW) + 6);
  const rows = [];
  for (let position = first; position < last; position++) rows.push(row(position));
  byId("rows").style.height = `${state.found.length * ROW}px`;
  byId("rows").replaceChildren(...rows);
  const active = state.active < 0 ? "" : `row-${state.active}`;
  byId("search").setAttribute("aria-activedescendant", active);
}

function showRow(position) {
  const list = byId("list");
  const top = position * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) {
    list.scrollTop = top + ROW - list.clientHeight;
  }
}

// --- a class, an attribute ---

function weightBar(value, largest, text, kind) {
  const width = `${Math.max(0, Math.min(1, value / largest)) * 100}%`;
  return el("span", { class: kind === "class" ? "weight of-class" : "weight" },
    el("i", { style: { width } }), el("span", null, text));
}

const nameOf = (n) => attributes[n].sentences[0] || `attribute ${n}`;

function attended([n, weight], c, largest) {
  const own = wordsOf(c).own.filter((nearest) => nearest === n).length;
  const origin = own ? `own words (${own})` : "from other classes";
  const hint = own ? `${own} of its own sentences are nearest to this attribute`
    : "none of its own sentences is nearest to this attribute: other classes' are";
  const others = el("ul", { hidden: "" },
    attributes[n].sentences.slice(1).map((text) => el("li", null, text)));
  const more = el("button", { class: "unfold", type: "button", "aria-expanded": "false",
    title: "more sentences near its centre", onclick: () => {
      others.hidden = !others.hidden;
      more.setAttribute("aria-expanded", !others.hidden);
    } }, `+${others.children.length}`);
  return el("li", null,
    weightBar(weight, largest, percent(weight), "attribute"),
    el("span", null, link("attribute", n, { class: "tag" }, `#${n}`), " ",
      link("attribute", n, null, nameOf(n)), " ", others.children.length ? more : ""),
    el("span", { class: "origin", title: hint }, origin), others);
}

function neighbour([other, cosine, shared], c) {
  const here = new Map(c.attributes);
  const there = new Map(classes[other].attributes);
  const lines = shared.map((n) => el("tr", { "data-attribute": n },
    el("td", { title: nameOf(n) },
      link("attribute", n, null, el("span", { class: "tag" }, `#${n} `), nameOf(n))),
    el("td", null, percent(here.get(n))), el("td", null, percent(there.get(n)))));
  const head = el("tr", null, el("th", null, `${shared.length} shared`), el("th", null, "this"),
    el("th", null, "that"));
  return el("li", { "data-class": classes[other].name },
    el("div", { class: "who" }, link("class", other, null, classes[other].name),
      el("span", { class: "origin", title: "cosine of the centred prototypes" }, fixed(cosine))),
    shared.length ? el("table", null, el("thead", null, head), el("tbody", null, lines))
      : el("p", { class: "note" }, "No attribute in both: near by their names."));
}

function splitChip(c) {
  if (!page.covers_all) return "";
  const known = classes.some((other) => other.split);
  const text = SPLITS[c.split] || (known ? "not in the data set" : "");
  if (!text) return "";
  return el("span", { class: c.split === "train" ? "chip" : "chip held" }, text);
}

function classDetail(index) {
  const c = classes[index];
  const largest = Math.max(...c.attributes.map(([, weight]) => weight), 1e-9);
  const { name, descriptions, own } = wordsOf(c);
  const sentences = descriptions.map((text, i) => el("li", null, el("span", null, marked(text)),
    own[i] < 0 ? "" : link("attribute", own[i], { class: "tag",
      title: `nearest attribute: ${nameOf(own[i])}` }, `#${own[i]}`)));
  return [
    el("h2", null, c.name, splitChip(c)),
    el("h3", null, `What it attends to: ${c.attributes.length} of ${attributes.length} attributes`),
    el("p", { class: "note" }, "An attribute reads as the sentences nearest to its centre; ",
      "the weights add up to 100%."),
    el("ol", { class: "bars", id: "attends" }, c.attributes.map((a) => attended(a, c, largest))),
    el("h3", null, "Nearest classes, and what they share"),
    el("ul", { class: "near", id: "near" }, c.nearest.map((other) => neighbour(other, c))),
    el("h3", null, `Descriptions${name === c.name ? "" : ` of ${name}`} (${sentences.length})`),
    el("p", { class: "note" }, "On the right the attribute that each is nearest to."),
    el("ul", { class: "plain", id: "descriptions" }, sentences),
  ];
}

function attributeDetail(n) {
  const { sentences, size } = attributes[n];
  const largest = users[n].length ? users[n][0][1] : 1;
  const line = ([i, weight]) => el("li", { "data-class": classes[i].name },
    weightBar(weight, largest, percent(weight), "class"), link("class", i, null, classes[i].name),
    splitChip(classes[i]));
  const list = el("ol", { class: "bars", id: "users" }, users[n].slice(0, CHUNK).map(line));
  const more = el("button", { class: "more", type: "button", onclick: () => {
    list.append(...users[n].slice(list.children.length, list.children.length + CHUNK).map(line));
    more.hidden = list.children.length >= users[n].length;
  } }, `Show ${CHUNK} more`);
  more.hidden = users[n].length <= CHUNK;
  const share = `${number(users[n].length)} of ${number(classes.length)} classes attend to it`;
  return [
    el("h2", null, `Attribute #${n}`, el("span", { class: "chip" }, `${number(size)} sentences`)),
    el("h3", null, "The sentences nearest to its centre"),
    el("ul", { class: "plain", id: "sentences" },
      sentences.map((text) => el("li", null, el("span", null, marked(text))))),
    el("h3", null, share), list, more,
  ];
}
