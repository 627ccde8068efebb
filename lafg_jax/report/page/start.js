// --- what a person does, and the first picture ---

function choose(kind, index, jump) {
  state.chosen = { kind, index };
  byId("detail").replaceChildren(...(kind === "class" ? classDetail : attributeDetail)(index));
  drawRows();
  redraw();
  document.title = `${kind === "class" ? classes[index].name : `Attribute #${index}`} – ${TITLE}`;
  const top = byId("detail").getBoundingClientRect().top;
  if (jump && (top < 0 || top > innerHeight - 160)) byId("detail").scrollIntoView();
}

function route(jump) {
  const hash = readHash();
  state.search = hash.search || "";
  state.kind = hash.list === "attribute" || (!hash.list && !("class" in hash) && hash.attribute)
    ? "attribute" : "class";
  byId("search").value = state.search;
  refresh();
  if (hash.class !== undefined && !classOf.has(hash.class)) return missing(hash.class);
  if (hash.class !== undefined) return choose("class", classOf.get(hash.class), jump);
  if (attributes[hash.attribute]) return choose("attribute", Number(hash.attribute), jump);
  // An address of its own is not needed to see something at once.
  return choose(state.kind, state.found.length ? state.found[0] : 0, false);
}

function missing(name) {
  state.chosen = null;
  byId("detail").replaceChildren(el("h2", null, name),
    el("p", { class: "note" }, "This page has no class of that name."));
  redraw();
}

function rehash() {
  const hash = readHash();
  const kind = "class" in hash ? "class" : "attribute";
  const index = kind === "class" ? classOf.get(hash.class) : hash.attribute;
  history.replaceState(null, "", hashOf(kind, index === undefined ? null : index));
  refresh();
  redraw();
}

function onSearchKey(event) {
  const last = state.found.length - 1;
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 };
  if (event.key in steps) {
    state.active = Math.max(0, Math.min(last, state.active + steps[event.key]));
    showRow(state.active);
    drawRows();
  } else if (event.key === "Enter" && last >= 0) {
    location.hash = hashOf(state.kind, state.found[Math.max(0, state.active)]);
  } else if (event.key === "Escape") {
    state.search = event.target.value = "";
    rehash();
  } else return;
  event.preventDefault();
}

function listenToMap() {
  let from = null;
  canvas.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, y: event.clientY, viewX: view.x, viewY: view.y, moved: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return hover(nearestPoint(event));
    const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
    from.moved ||= Math.hypot(dx, dy) > 5;
    if (from.moved && view.scale > 1) {
      view.x = from.viewX - (2 * dx) / (view.scale * (canvas.clientWidth - 48));
      view.y = from.viewY + (2 * dy) / (view.scale * (canvas.clientHeight - 48));
      redraw();
    }
  });
  canvas.addEventListener("pointerleave", (event) => {
    from = null;
    // A finger leaves with every tap; the name that it asked for stays.
    if (event.pointerType !== "touch") hover(null);
  });
  canvas.addEventListener("pointerup", (event) => {
    const p = from && !from.moved ? nearestPoint(event) : null;
    from = null;
    // A finger cannot hover: its first tap shows the name, the second opens.
    const again = p && hovered === `${p.kind} ${p.index}`;
    if (p && (again || event.pointerType !== "touch")) location.hash = hashOf(p.kind, p.index);
    hover(p, event.pointerType === "touch" && !again ? " (tap again to open)" : "");
  });
}

function header() {
  const kinds = { class: ["prototypes of classes", classes], attribute: ["attributes", attributes] };
  byId("about").textContent =
    `encoder ${shortPath(page.encoder)} · descriptions: ${page.sources.join(", ")}`;
  const cosine = stats.pairwise_cosine;
  const tiles = {
    classes: number(stats.num_classes),
    sentences: number(stats.num_sentences),
    "attributes mined": number(stats.num_attributes),
    "effective attributes a class": `${fixed(stats.effective_attributes.mean)} of ${stats.top_k}`,
    "classes sharing an attribute (median)": number(stats.classes_per_attribute.median),
    "cosine of prototypes, raw → centred": `${fixed(cosine.raw, 3)} → ${fixed(cosine.centred, 3)}`,
  };
  const pairs = (object) => Object.entries(object).map(([name, value]) =>
    el("div", null, el("dt", null, name), el("dd", null, value)));
  const extra = { "temperature tau_k": String(stats.tau_k),
    "generic sentences dropped": number(stats.dropped_sentences) };
  byId("tiles").append(...pairs(tiles));
  byId("figures").append(...pairs({ ...page.figures, ...extra }));
  for (const [kind, [text, list]] of Object.entries(kinds)) {
    const swatch = el("span", { class: `swatch ${kind}`, style: { background: `var(--${kind})` } });
    const button = el("button", { type: "button", "aria-pressed": "true", onclick: () => {
      shown[kind] = !shown[kind];
      button.setAttribute("aria-pressed", shown[kind]);
      redraw();
    } }, swatch, `${number(list.length)} ${text}`);
    byId("legend").append(button);
  }
  const both = (shares) => percent(shares[0] + shares[1]);
  const { prototypes, attributes: ofAttributes } = page.variance;
  byId("mapnote").textContent = `The plane in which the centred prototypes differ most (PCA): it ` +
    `shows ${both(prototypes)} of their variance (${percent(prototypes[0])} across, ` +
    `${percent(prototypes[1])} up) and ${both(ofAttributes)} of the attributes'. What is near here ` +
    `may be far in the other dimensions: the lists below use all of them.`;
  canvas.setAttribute("aria-label", `Map of ${classes.length} classes and ${attributes.length} ` +
    `attributes; the list beside it holds the same names.`);
  warn();
}

function warn() {
  if (!page.covers_all) return;
  const kept = classes.filter((c) => c.split !== "train").length;
  const known = classes.some((c) => c.split);
  byId("warning").hidden = false;
  byId("warning").append(
    el("b", null, "This page covers classes that training must not see. "),
    known ? `${number(kept)} of its ${number(classes.length)} classes are not training classes. `
      : "It cannot tell which: no data set was read, or its classes have other names. ",
    "Its vocabulary and prototypes were computed for this page alone; the run's own files are " +
    "unchanged.", page.note ? ` ${page.note}` : "");
  if (known && kept) {
    const swatch = el("span", { class: "swatch", style: { background: "var(--held)" } });
    byId("legend").append(el("span", { class: "origin" }, swatch, "not trained on"));
  }
}

const TITLE = document.title;
header();
listenToMap();
byId("search").addEventListener("input", (event) => {
  state.search = event.target.value.trim();
  rehash();
});
byId("search").addEventListener("keydown", onSearchKey);
byId("list").addEventListener("scroll", drawRows);
for (const kind of ["class", "attribute"]) {
  byId(`kind-${kind}`).addEventListener("click", () => {
    state.kind = kind;
    rehash();
  });
}
byId("zoom-in").addEventListener("click", () => zoom(1.6));
byId("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
byId("zoom-reset").addEventListener("click", () => zoom(0));
addEventListener("hashchange", () => route(true));
addEventListener("resize", () => { drawRows(); redraw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target === byId("search")) return;
  event.preventDefault();
  byId("search").focus();
});
route(false);
