// --- the map: classes and attributes in the plane in which the prototypes differ most ---

const shown = { class: true, attribute: true };
const view = { scale: 1, x: 0, y: 0 };
const canvas = byId("map");
const tip = byId("tip");
let hovered = null;
let places = [];
let drawing = false;

// The more numerous kind lies below, so that it hides nothing of the other.
const points = [
  classes.map((c, index) => ({ kind: "class", index, at: c.at })),
  attributes.map((a, index) => ({ kind: "attribute", index, at: a.at })),
].sort((a, b) => b.length - a.length).flat();

const spread = [0, 1].map((axis) => {
  const values = points.map((p) => p.at[axis]);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return { middle: (low + high) / 2, half: Math.max((high - low) / 2, 1e-6) };
});

const scaled = (at, axis) => (at[axis] - spread[axis].middle) / spread[axis].half;

function place(point, width, height) {
  const [x, y] = [0, 1].map((axis) => scaled(point.at, axis));
  return [width / 2 + ((x - view.x) * view.scale * (width - 48)) / 2,
    height / 2 - ((y - view.y) * view.scale * (height - 48)) / 2];
}

function related() {
  const { chosen } = state;
  if (!chosen) return { lines: [], names: new Set() };
  const own = (kind, index, strength) => ({ kind, index, strength });
  const lines = chosen.kind === "class"
    ? [...classes[chosen.index].nearest.map(([i]) => own("class", i, 0.5)),
      ...classes[chosen.index].attributes.map(([n, weight]) => own("attribute", n, weight))]
    : users[chosen.index].slice(0, CHUNK).map(([i, weight]) => own("class", i, weight));
  return { lines, names: new Set(lines.map((line) => `${line.kind} ${line.index}`)) };
}

function dot(pen, kind, x, y, size) {
  pen.beginPath();
  if (kind === "class") pen.arc(x, y, size, 0, 7);
  else {
    pen.moveTo(x, y - size * 1.25);
    pen.lineTo(x + size * 1.25, y);
    pen.lineTo(x, y + size * 1.25);
    pen.lineTo(x - size * 1.25, y);
    pen.closePath();
  }
  pen.fill();
}

function colourOf(point, colours) {
  if (point.kind === "attribute") return colours.attribute;
  const { split } = classes[point.index];
  return split && split !== "train" ? colours.held : colours.class;
}

function drawMap() {
  drawing = false;
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const colours = Object.fromEntries(["class", "attribute", "held", "ink", "soft", "ground"]
    .map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  places = points.filter((p) => shown[p.kind])
    .map((p) => ({ ...p, xy: place(p, width, height) }));
  const position = new Map(places.map((p) => [`${p.kind} ${p.index}`, p]));
  const { lines, names } = related();
  const chosen = state.chosen && position.get(`${state.chosen.kind} ${state.chosen.index}`);
  const matches = state.search ? new Set(state.found.map((i) => `${state.kind} ${i}`)) : null;
  if (chosen) drawLines(pen, chosen, lines, position, colours);
  const size = Math.max(1.4, 4.2 - 1.3 * Math.log10(points.length / 100))
    * Math.min(view.scale, 1.6) ** 0.5;
  const usual = { class: points.length > 2000 ? 0.3 : 0.55, attribute: 0.4 };
  for (const p of places) {
    const key = `${p.kind} ${p.index}`;
    const found = matches && matches.has(key);
    const strong = names.has(key) || (found && matches.size < places.length / 4);
    pen.fillStyle = colourOf(p, colours);
    pen.globalAlpha = strong ? 1 : matches && !found ? 0.13 : usual[p.kind];
    dot(pen, p.kind, ...p.xy, strong ? size * 1.25 : size * (p.kind === "class" ? 1 : 0.85));
  }
  pen.globalAlpha = 1;
  if (chosen) ring(pen, chosen, size, colours);
  if (hovered && position.has(hovered)) ring(pen, position.get(hovered), size, colours);
  drawLabels(pen, chosen, lines, position, colours, width, height);
}

function drawLines(pen, chosen, lines, position, colours) {
  const largest = Math.max(...lines.map((line) => line.strength), 1e-9);
  for (const line of lines) {
    const end = position.get(`${line.kind} ${line.index}`);
    if (!end) continue;
    pen.strokeStyle = colours[line.kind];
    pen.globalAlpha = 0.45;
    pen.lineWidth = line.kind === "class" ? 1 : 0.6 + (2.4 * line.strength) / largest;
    pen.beginPath();
    pen.moveTo(...chosen.xy);
    pen.lineTo(...end.xy);
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

function ring(pen, p, size, colours) {
  pen.fillStyle = colourOf(p, colours);
  dot(pen, p.kind, ...p.xy, size * 1.7);
  pen.strokeStyle = colours.ink;
  pen.lineWidth = 2;
  pen.stroke();
}

const labelOf = (p) => (p.kind === "class" ? classes[p.index].name
  : `#${p.index} ${attributes[p.index].sentences[0] || ""}`);

// Beside, above or below the point, where no other label stands; or nowhere.
function freeBox([x, y], wide, taken, width, height) {
  const places = [[x + 9, y - 8], [x - 9 - wide, y - 8], [x - wide / 2, y - 24],
    [x - wide / 2, y + 8], [x + 6, y - 20], [x + 6, y + 5], [x - 6 - wide, y - 20],
    [x - 6 - wide, y + 5]];
  return places.map(([left, top]) => ({ x: left, y: top, w: wide, h: 16 })).find((box) =>
    box.x >= 2 && box.x + wide <= width - 2 && box.y >= 0 && box.y + box.h <= height &&
    !taken.some((b) => box.x < b.x + b.w + 4 && b.x < box.x + wide + 4
      && box.y < b.y + b.h && b.y < box.y + box.h));
}

function drawLabels(pen, chosen, lines, position, colours, width, height) {
  const related = lines.map((line) => position.get(`${line.kind} ${line.index}`));
  const taken = [];
  for (const p of [chosen, ...related].filter(Boolean)) {
    const text = labelOf(p).length > 34 ? `${labelOf(p).slice(0, 33)}…` : labelOf(p);
    pen.font = `${p === chosen ? "600 13px" : "11.5px"} system-ui, sans-serif`;
    const wide = pen.measureText(text).width;
    const box = freeBox(p.xy, wide, taken, width, height);
    if (!box) continue;
    taken.push(box);
    pen.lineWidth = 3.5;
    pen.strokeStyle = colours.ground;
    pen.lineJoin = "round";
    pen.strokeText(text, box.x, box.y + 12);
    pen.fillStyle = p === chosen ? colours.ink : p.kind === "class" ? colours.class
      : colours.attribute;
    pen.fillText(text, box.x, box.y + 12);
  }
}

function redraw() {
  if (!drawing) requestAnimationFrame(drawMap);
  drawing = true;
}

function nearestPoint(event) {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let best = null;
  let least = event.pointerType === "touch" ? 26 : 14;
  for (const p of places) {
    const distance = Math.hypot(p.xy[0] - x, p.xy[1] - y);
    if (distance < least) [best, least] = [p, distance];
  }
  return best;
}

function hover(p, hint = "") {
  const key = p && `${p.kind} ${p.index}`;
  if (key === hovered) return;
  hovered = key;
  tip.hidden = !p;
  canvas.style.cursor = p ? "pointer" : "";
  if (p) {
    tip.textContent = labelOf(p) + hint;
    tip.style.top = `${p.xy[1] + 14}px`;
    tip.style.left = `${Math.max(0, Math.min(p.xy[0] + 10, canvas.clientWidth - tip.offsetWidth))}px`;
  }
  redraw();
}

function zoom(factor) {
  view.scale = Math.min(60, Math.max(1, view.scale * factor));
  const chosen = state.chosen && points.find((p) =>
    p.kind === state.chosen.kind && p.index === state.chosen.index);
  // Zooming in goes to what is looked at.
  if (view.scale === 1) view.x = view.y = 0;
  else if (factor > 1 && chosen) {
    [view.x, view.y] = [0, 1].map((axis) => scaled(chosen.at, axis));
  }
  hover(null);
  redraw();
}
