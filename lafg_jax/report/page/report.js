"use strict";
// --- the charts: drawn by BokehJS from the numbers in #data, again when light turns dark ---

const page = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const { figure, show } = Bokeh.Plotting;
const DASHES = ["solid", "dashed", "dotted", "dotdash", "solid", "dotted"];
const COLOURS = DASHES.map((_, k) => `s${k}`);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function dressed(options) {
  const fig = figure({
    sizing_mode: "stretch_width", toolbar_location: null, tools: [],
    background_fill_color: null, border_fill_color: null, outline_line_color: null,
    lod_threshold: null, ...options,
  });
  for (const axis of [fig.xaxis, fig.yaxis]) {
    axis.axis_label_text_color = axis.major_label_text_color = colour("ink");
    axis.axis_label_text_font_style = "normal";
    axis.axis_line_color = axis.major_tick_line_color = colour("soft");
    axis.minor_tick_line_color = null;
  }
  for (const grid of [fig.xgrid, fig.ygrid]) grid.grid_line_color = colour("line");
  return fig;
}

function drawChart(chart) {
  const place = byId(`chart-${chart.id}`);
  const fig = dressed({ height: 230, x_axis_label: chart.x, y_axis_label: chart.y,
    ...(chart.range ? { y_range: chart.range } : {}) });
  chart.series.forEach((series, k) => {
    const source = new Bokeh.ColumnDataSource({ data: {
      x: series.x, y: series.y, name: series.x.map(() => series.name) } });
    const line = { line_color: colour(COLOURS[k % 6]), line_width: 2, line_dash: DASHES[k % 6] };
    if (series.x.length > 1) fig.line({ field: "x" }, { field: "y" }, { source, ...line });
    if (series.x.length < 25) {
      fig.scatter({ field: "x" }, { field: "y" }, { source, size: 6,
        fill_color: colour(COLOURS[k % 6]), line_color: null });
    }
  });
  fig.add_tools(new Bokeh.HoverTool({ mode: "mouse", tooltips: [["", "@name"],
    [chart.x, "@x{0,0.[00]}"], [chart.y, "@y{0,0.[0000]}"]] }));
  place.replaceChildren();
  return show(fig, place);
}

function drawAll() {
  for (const chart of page.charts) drawChart(chart);
  if (page.map) drawMap();
}
// --- the map of embeddings: thumbnails under the pointer, and all images of a class ---

const STRIP = 60;
const FOUND = 40;
let chosen = null; // The number of a class.
let map = null; // Of the drawn map: figure, sources.

function thumbnail(row, side) {
  const { columns, side: of, sheets, per_sheet: each } = page.map;
  const at = row % each;
  const scale = side / of;
  const box = document.createElement("span");
  box.className = "thumb";
  Object.assign(box.style, {
    width: `${side}px`, height: `${side}px`,
    backgroundImage: `url("${sheets[Math.floor(row / each)]}")`,
    backgroundSize: `${columns * side}px auto`,
    backgroundPosition: `${-(at % columns) * of * scale}px ${-Math.floor(at / columns) * of * scale}px`,
  });
  return box;
}

function drawMap() {
  const { x, y, right } = page.map;
  const fig = dressed({ height: byId("map").clientHeight, width_policy: "max",
    match_aspect: true });
  fig.xaxis.visible = fig.yaxis.visible = fig.xgrid.visible = fig.ygrid.visible = false;
  if (matchMedia("(hover: hover)").matches) fig.add_tools(new Bokeh.PanTool());
  const of = (wanted) => x.map((_, row) => row).filter((row) => right[row] === wanted);
  const size = x.length > 3000 ? 4 : x.length > 800 ? 6 : 8;
  const kinds = [[1, "circle", "right"], [0, "x", "wrong"]].map(([wanted, marker, name]) => {
    const rows = of(wanted);
    const source = new Bokeh.ColumnDataSource({ data: {
      x: rows.map((row) => x[row]), y: rows.map((row) => y[row]) } });
    const glyph = fig.scatter({ field: "x" }, { field: "y" }, { source, marker,
      size: wanted ? size : size + 1, fill_color: wanted ? colour(name) : null, fill_alpha: 0.8,
      line_color: wanted ? null : colour(name), line_width: 1.4 });
    return { rows, source, glyph };
  });
  const own = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
  fig.scatter({ field: "x" }, { field: "y" }, { source: own, size: size + 6, fill_color: null,
    line_color: colour("link"), line_width: 2.5 });
  const ring = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
  fig.scatter({ field: "x" }, { field: "y" }, { source: ring, marker: "square", size: size + 16,
    fill_color: null, line_color: colour("ink"), line_width: 2.5 });
  map = { fig, kinds, own, ring };
  fig.on_event("mousemove", (event) => hover(nearest(event, 14), event));
  fig.on_event("mouseleave", () => hover(null));
  fig.on_event("tap", (event) => {
    const row = nearest(event, 26);
    hover(row, event);
    if (row !== null) choose(page.map.label[row]);
  });
  byId("map").replaceChildren();
  show(fig, byId("map"));
  mark();
}

function nearest(event, least) {
  const { x, y } = page.map;
  const { x_range: across, y_range: up } = map.fig;
  const box = byId("map");
  const [kx, ky] = [box.clientWidth / (across.end - across.start),
    box.clientHeight / (up.end - up.start)];
  let best = null;
  for (let row = 0; row < x.length; row++) {
    const distance = Math.hypot((x[row] - event.x) * kx, (y[row] - event.y) * ky);
    if (distance < least) [best, least] = [row, distance];
  }
  return best;
}

function told(row) {
  const { classes, label, ids, right, nearest_label: other } = page.map;
  const found = right[row] < 0 ? "" : right[row] ? "\u2713 its nearest image is of its class"
    : `\u00d7 its nearest image is of ${classes[other[row]]}`;
  return [classes[label[row]], found, ids[row]];
}

function hover(row, event) {
  const tip = byId("map-tip");
  tip.hidden = row === null;
  if (row === null) return;
  const lines = told(row).filter(Boolean).map((text, k) => {
    const line = document.createElement(k ? "div" : "b");
    line.textContent = text;
    return line;
  });
  tip.replaceChildren(thumbnail(row, 160), ...lines);
  const box = byId("map");
  tip.style.left = `${Math.max(4, Math.min(event.sx + 16, box.clientWidth - 184))}px`;
  tip.style.top = `${Math.max(4, Math.min(event.sy - 60, box.clientHeight - tip.offsetHeight - 4))}px`;
}

function points(rows) {
  return { x: rows.map((row) => page.map.x[row]), y: rows.map((row) => page.map.y[row]) };
}

function mark() {
  if (!map) return;
  const rows = chosen === null ? [] : rowsOf(chosen);
  map.own.data = points(rows);
  map.ring.data = points([]);
  for (const { glyph } of map.kinds) {
    glyph.glyph.fill_alpha = chosen === null ? 0.8 : 0.2;
    glyph.glyph.line_alpha = chosen === null ? 1 : 0.25;
  }
}

function rowsOf(label) {
  return page.map.label.flatMap((of, row) => (of === label ? [row] : []));
}

function choose(label) {
  chosen = label;
  mark();
  const rows = label === null ? [] : rowsOf(label);
  byId("map-strip").replaceChildren(...rows.slice(0, STRIP).map((row) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = page.map.right[row] === 0 ? "wrong" : "";
    button.title = told(row).filter(Boolean).join("\n");
    button.setAttribute("aria-label", told(row).filter(Boolean).join(", "));
    button.append(thumbnail(row, 72));
    button.addEventListener("focus", () => { map.ring.data = points([row]); });
    return button;
  }));
  const more = rows.length > STRIP ? `, the first ${STRIP} shown` : "";
  const wrong = rows.filter((row) => page.map.right[row] === 0).length;
  byId("map-chosen").textContent = label === null ? "" : `${page.map.classes[label]}: ` +
    `${rows.length} images on the map, ${wrong} with a wrong nearest image${more}.`;
  search();
}

function search() {
  const words = byId("map-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const all = page.map.classes.map((name, label) => ({ name, label }));
  const found = all.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
  byId("map-found").replaceChildren(...found.slice(0, FOUND).map(({ name, label }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", label === chosen);
    button.addEventListener("click", () => choose(label === chosen ? null : label));
    return button;
  }));
  const first = found.length > FOUND ? `, the first ${FOUND} listed` : "";
  byId("map-number").textContent = `${found.length} of ${all.length} classes${first}`;
  return found;
}

function zoom(factor) {
  for (const range of [map.fig.x_range, map.fig.y_range]) {
    const [middle, half] = [(range.start + range.end) / 2, (range.end - range.start) / 2];
    [range.start, range.end] = [middle - half * factor, middle + half * factor];
  }
}

function listenToMap() {
  byId("map-search").addEventListener("input", search);
  byId("map-search").addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      byId("map-search").value = "";
      choose(null);
    } else if (event.key === "Enter") {
      const [first] = search();
      if (first) choose(first.label);
    } else return;
    event.preventDefault();
  });
  byId("map-zoom-in").addEventListener("click", () => zoom(1 / 1.5));
  byId("map-zoom-out").addEventListener("click", () => zoom(1.5));
  byId("map-zoom-reset").addEventListener("click", drawMap);
  for (const link of document.querySelectorAll("a[data-label]")) {
    link.addEventListener("click", () => choose(Number(link.dataset.label)));
  }
  search();
}
// --- tables with a filter, and the first picture ---

for (const input of document.querySelectorAll("input[data-filter]")) {
  const rows = byId(input.dataset.filter).tBodies[0].rows;
  const count = document.querySelector(`[data-count="${input.dataset.filter}"]`);
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      left += !row.hidden;
    }
    count.textContent = `${left} of ${rows.length}`;
  };
  input.addEventListener("input", filter);
  filter();
}

if (page.map) listenToMap();
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
document.documentElement.dataset.drawn = Math.round(performance.now());
