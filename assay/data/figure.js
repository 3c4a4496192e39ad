"use strict";
// Draws the figure whose data stand in #data as an SVG that answers: hover, legend, axes, logarithms. What is chosen stands in the
// URL's fragment. Every number shown is one of the data; only means of points of one order (seeds), where lines run, are formed here.

// ---- what needs no page --------------------------------------------------------------------------------------------------------

const VALUE = 0, LOW = 1, HIGH = 2, N = 3;
const low = v => v[LOW] ?? v[VALUE], high = v => v[HIGH] ?? v[VALUE];
const mean = values => values.reduce((a, b) => a + b, 0) / values.length;

/** A number as an axis of this format writes it. */
function written(value, format, digits = 6) {
  if (format === "plain" || value <= 0)
    return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(digits));
  const [step, suffixes] = format === "width" ? [1024, ["", "k", "M"]] : [1000, ["", "k", "M", "B", "T"]];
  const power = Math.max(0, Math.min(Math.floor(Math.log(value) / Math.log(step) + 1e-9), suffixes.length - 1));
  return +(value / step ** power).toPrecision(4) + suffixes[power];
}

/** A value and its interval: 0.934 (0.921 to 0.947). */
function told(v, format) {
  const text = written(v[VALUE], format, 4);
  return v[LOW] === null || v[HIGH] === null ? text : `${text} (${written(v[LOW], format, 4)} to ${written(v[HIGH], format, 4)})`;
}

/** Round places for ticks between two ends. */
function ticks(from, to, log) {
  if (log) {
    const found = [], many = to / from > 500;
    for (let e = Math.floor(Math.log10(from)); e <= Math.ceil(Math.log10(to)); e++)
      for (const m of many ? [1] : [1, 2, 5]) found.push(m * 10 ** e);
    const inside = found.filter(t => t >= from && t <= to).map(t => +t.toPrecision(12));
    if (inside.length > 2) return inside;
  }
  const rough = (to - from) / 5, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(m => m * unit).find(s => s >= rough);
  const found = [];
  for (let i = Math.ceil(from / step); i * step <= to * (1 + 1e-12); i++) found.push(+(i * step).toPrecision(12));
  return found;
}

/** From values between two ends to places between two others. */
function scale(from, to, start, end, log) {
  const f = log ? Math.log : v => v;
  const a = f(from), span = f(to) - a || 1;
  return v => start + (f(v) - a) / span * (end - start);
}

/** Ends of an axis: all of these, and a little more. */
function ends(values, log) {
  const f = log ? Math.log : v => v, back = log ? Math.exp : v => v;
  const a = f(Math.min(...values)), b = f(Math.max(...values)), more = (b - a) * 0.05 || Math.abs(a) * 0.05 || 0.5;
  return [back(a - more), back(b + more)];
}

/** Points that can be shown: both quantities there, above 0 on logarithmic axes, line not hidden; in the order they are joined. */
function shown(data, state) {
  return data.points
    .filter(p => p.values[state.x] && p.values[state.y] && !state.hidden.has(p.line))
    .map(p => ({point: p, line: data.lines[p.line], x: p.values[state.x], y: p.values[state.y]}))
    .filter(f => (!state.logx || f.x[VALUE] > 0) && (!state.logy || f.y[VALUE] > 0))
    .sort((a, b) => a.point.line - b.point.line || a.point.interpolated - b.point.interpolated || a.point.order - b.point.order);
}

/** The Pareto front of shown points; none where an axis has no direction. */
function front(found, across, up) {
  if (across.better === "neither" || up.better === "neither") return [];
  const cost = f => across.better === "lower" ? f.x[VALUE] : -f.x[VALUE], gain = f => up.better === "higher" ? f.y[VALUE] : -f.y[VALUE];
  const best = [];
  for (const f of found.filter(f => !f.point.interpolated).sort((a, b) => cost(a) - cost(b) || gain(b) - gain(a)))
    if (!best.length || gain(f) > gain(best.at(-1))) best.push(f);
  return best;
}

/** Where a line runs: through the means of points of one order. */
function course(found) {
  return [...grouped(found, f => f.point.order).values()].map(group => [
    mean(group.map(f => f.x[VALUE])), mean(group.map(f => f.y[VALUE])), mean(group.map(f => low(f.y))), mean(group.map(f => high(f.y)))]);
}

function grouped(items, key) {
  const found = new Map();
  for (const item of items) found.has(key(item)) ? found.get(key(item)).push(item) : found.set(key(item), [item]);
  return found;
}

/** What is chosen, from the URL's fragment; what it does not say, or says of something else, is as the figure came. */
function read(fragment, data) {
  const said = new URLSearchParams(fragment.replace(/^#/, "")), place = key => data.axes.findIndex(a => a.key === key);
  const axis = (name, other) => place(said.get(name)) >= 0 ? place(said.get(name)) : other;
  const flag = (name, other) => said.has(name) ? said.get(name) === "1" : other;
  const x = axis("x", data.panels[0][0]), y = axis("y", data.panels[0][1]);
  const hidden = new Set((said.get("hide") ?? "").split(",").filter(Boolean).map(Number).filter(i => i in data.lines));
  return {
    x, y, hidden, logx: flag("logx", data.axes[x].log), logy: flag("logy", data.axes[y].log),
    bands: flag("bands", true), front: flag("front", data.front),
  };
}

/** The fragment that says what is chosen, as far as it is not how the figure came. */
function write(state, data) {
  const said = new URLSearchParams(), plain = read("", data);
  for (const name of ["x", "y"]) if (state[name] !== plain[name]) said.set(name, data.axes[state[name]].key);
  for (const name of ["logx", "logy"]) if (state[name] !== data.axes[state[name.at(-1)]].log) said.set(name, +state[name]);
  for (const name of ["bands", "front"]) if (state[name] !== plain[name]) said.set(name, +state[name]);
  if (state.hidden.size) said.set("hide", [...state.hidden].sort((a, b) => a - b).join(","));
  return String(said);
}

// ---- the page ------------------------------------------------------------------------------------------------------------------

const HEIGHT = 500, LEFT = 76, RIGHT = 16, TOP = 14, BOTTOM = 52, NEAR = 28, MANY = 60;
let WIDTH = 860; // as wide as the page leaves room for, so that letters keep their size
const SHAPES = [ // of about equal weight, around 0 0
  "M0-4.5A4.5 4.5 0 1 1 0 4.5A4.5 4.5 0 1 1 0-4.5Z", "M-4-4H4V4H-4Z", "M0-5.5L5.5 0L0 5.5L-5.5 0Z", "M0-5.2L5 4H-5Z", "M0 5.2L5-4H-5Z",
  "M-1.6-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z", "M-5-2.7L-2.7-5L0-2.3L2.7-5L5-2.7L2.3 0L5 2.7L2.7 5L0 2.3L-2.7 5L-5 2.7L-2.3 0Z",
  "M0-6L1.5-2L5.7-1.9L2.4.8L3.5 4.9L0 2.5L-3.5 4.9L-2.4.8L-5.7-1.9L-1.5-2Z"];

function el(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "text", "polyline", "polygon", "rect", "circle", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (key in made && !svg) made[key] = value; else made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const paint = line => line.colour === null ? "var(--grey)" : `var(--c${line.colour})`;
const mark = (line, attributes = {}) => el("path", {
  d: SHAPES[line.marker], stroke: paint(line), fill: line.colour === null ? "var(--paper)" : paint(line), ...attributes});
const title = axis => axis.label + (axis.unit ? ` (${axis.unit})` : "");
const arrow = {higher: "↑ higher is better", lower: "↓ lower is better", neither: ""};

function start() {
  const data = JSON.parse(document.getElementById("data").textContent), $ = id => document.getElementById(id);
  let state = read(location.hash, data), places = [], at = -1;

  function changed(more) {
    state = {...state, ...more};
    history.replaceState(null, "", "#" + write(state, data));
    render();
  }
  const toggled = name => $(name).addEventListener("change", () => changed({[name]: $(name).checked}));
  for (const name of ["x", "y"]) {
    for (const [group, axes] of grouped([...data.axes.entries()], ([, a]) => a.key.includes("/") ? a.key.split("/")[0] : "")) {
      const home = group ? $(name).appendChild(el("optgroup", {label: group})) : $(name);
      for (const [i, axis] of axes) home.append(el("option", {value: i, textContent: axis.label}));
    }
    $(name).addEventListener("change", () => changed({[name]: +$(name).value, ["log" + name]: data.axes[+$(name).value].log}));
  }
  ["logx", "logy", "bands", "front"].forEach(toggled);
  addEventListener("resize", () => render());
  addEventListener("hashchange", () => { state = read(location.hash, data); render(); });
  data.panels.forEach(([x, y]) => $("panels").append(el("button", {type: "button", textContent: data.axes[y].label,
    onclick: () => changed({x, y, logx: data.axes[x].log, logy: data.axes[y].log})})));
  data.lines.forEach((line, i) => {
    const button = el("button", {type: "button", title: "click: show or hide; double click: only this one"},
      el("svg", {viewBox: "-8 -8 16 16", "aria-hidden": "true"}, mark(line)), line.label);
    button.onclick = () => changed({hidden: new Set(state.hidden.has(i) ? [...state.hidden].filter(h => h !== i) : [...state.hidden, i])});
    button.ondblclick = () => changed({hidden: new Set(state.hidden.size === data.lines.length - 1 ? [] :
      data.lines.map((_, j) => j).filter(j => j !== i))});
    $("legend").append(button);
  });
  if (data.matrix) correlations(data.matrix, data, (x, y) => changed({x, y, logx: data.axes[x].log, logy: data.axes[y].log}), $("matrix"));

  function render() {
    const found = shown(data, state), [across, up] = [data.axes[state.x], data.axes[state.y]];
    $("x").value = state.x; $("y").value = state.y;
    for (const name of ["logx", "logy", "bands", "front"]) $(name).checked = state[name];
    $("front").disabled = across.better === "neither" || up.better === "neither";
    [...$("legend").children].forEach((b, i) => b.setAttribute("aria-pressed", !state.hidden.has(i)));
    [...$("panels").children].forEach((b, i) => b.setAttribute("aria-pressed", data.panels[i][0] === state.x && data.panels[i][1] === state.y));
    WIDTH = Math.round(Math.min(1000, Math.max(340, $("plot").parentElement.clientWidth)));
    $("plot").setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    places = draw($("plot"), found, across, up, state);
    $("said").textContent = [up, across].map(a => [a.label, a.doc, arrow[a.better]].filter(Boolean).join(": ").replace(/\.: /, ". ")).join(" · ");
    $("empty").hidden = found.length > 0;
    $("head").replaceChildren(...["coder", "line", title(across), title(up), "n"].map(t => el("th", {textContent: t, scope: "col"})));
    $("rows").replaceChildren(...found.slice(0, 2000).map(f => el("tr", {}, ...[f.point.name, f.line.label, told(f.x, across.format),
      told(f.y, up.format), f.y[N] || ""].map(t => el("td", {textContent: t})))));
  }

  function nearest(event) {
    const box = $("plot").getBoundingClientRect(), k = WIDTH / box.width;
    const [x, y] = [(event.clientX - box.left) * k, (event.clientY - box.top) * k];
    const best = places.reduce((a, b) => Math.hypot(b.x - x, b.y - y) < Math.hypot(a.x - x, a.y - y) ? b : a, {x: Infinity, y: Infinity});
    return Math.hypot(best.x - x, best.y - y) < NEAR * Math.max(1, k) ? best : null;
  }
  function tell(place) {
    const tip = $("tip");
    tip.hidden = !place;
    const ring = $("plot").querySelector(".ring");
    if (ring) ring.setAttribute("visibility", place ? "visible" : "hidden");
    if (!place) return;
    ring.setAttribute("transform", `translate(${place.x} ${place.y})`);
    const {found: f} = place, [across, up] = [data.axes[state.x], data.axes[state.y]];
    tip.replaceChildren(el("b", {textContent: f.point.name}), el("span", {textContent: f.line.label}),
      ...[[up, f.y], [across, f.x]].map(([a, v]) => el("span", {textContent: `${a.label}: ${told(v, a.format)}${v[N] ? `, n ${v[N]}` : ""}`})));
    const box = $("plot").getBoundingClientRect(), k = box.width / WIDTH;
    tip.style.left = `${Math.min(place.x * k + 12, Math.max(0, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${place.y * k + 14}px`;
  }
  $("plot").addEventListener("pointermove", event => tell(nearest(event)));
  $("plot").addEventListener("pointerdown", event => tell(nearest(event)));
  $("plot").addEventListener("pointerleave", () => tell(null));
  $("plot").addEventListener("keydown", event => { // along the points, by the arrow keys
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step || !places.length) return;
    event.preventDefault();
    at = (Math.max(at, step < 0 ? 0 : -1) + step + places.length) % places.length;
    tell(places[at]);
  });
  render();
}

/** Draw into the SVG; gives where each point came to stand. */
function draw(svg, found, across, up, state) {
  svg.replaceChildren(el("title", {}, `${up.label} over ${across.label}`));
  if (!found.length) return [];
  const level = up.reference && (!state.logy || up.reference[1][VALUE] > 0) ? up.reference : null;
  const inside = v => !state.logy || v > 0, heights = found.flatMap(f => state.bands ? [low(f.y), f.y[VALUE], high(f.y)] : [f.y[VALUE]]);
  const [x0, x1] = ends(found.map(f => f.x[VALUE]), state.logx);
  const [y0, y1] = ends([...heights, ...level ? [level[1][VALUE]] : []].filter(inside), state.logy);
  const px = scale(x0, x1, LEFT, WIDTH - RIGHT, state.logx), at = scale(y0, y1, HEIGHT - BOTTOM, TOP, state.logy);
  const py = v => inside(v) ? Math.max(Math.min(at(v), HEIGHT - BOTTOM), TOP) : HEIGHT - BOTTOM;
  const line = (x1, y1, x2, y2, more) => el("line", {x1, y1, x2, y2, ...more});
  const axes = el("g", {class: "axes"});
  const widths = [...new Set(found.map(f => f.x[VALUE]))];
  for (const t of across.format === "width" && widths.length < 9 ? widths : ticks(x0, x1, state.logx))
    axes.append(line(px(t), TOP, px(t), HEIGHT - BOTTOM), el("text", {x: px(t), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle"}, written(t, across.format)));
  for (const t of ticks(y0, y1, state.logy))
    axes.append(line(LEFT, at(t), WIDTH - RIGHT, at(t)), el("text", {x: LEFT - 8, y: at(t) + 4, "text-anchor": "end"}, written(t, up.format)));
  axes.append(el("text", {x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 12, "text-anchor": "middle", class: "title"}, title(across)),
    el("text", {transform: `translate(16 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle", class: "title"},
      title(up) + (up.better === "neither" ? "" : `, ${arrow[up.better]}`)));
  svg.append(axes);
  if (level) {
    const [name, v] = level;
    if (v[LOW] !== null && state.bands)
      svg.append(el("rect", {x: LEFT, width: WIDTH - LEFT - RIGHT, y: py(high(v)), height: py(low(v)) - py(high(v)), class: "level"}));
    svg.append(line(LEFT, py(v[VALUE]), WIDTH - RIGHT, py(v[VALUE]), {class: "reference"}),
      el("text", {x: WIDTH - RIGHT - 4, y: py(v[VALUE]) - 5, "text-anchor": "end"}, `${name}: ${told(v, up.format)}`));
  }
  for (const part of grouped(found, f => f.point.line).values()) svg.append(...drawn(part, px, py, state));
  const best = state.front ? front(found, across, up) : [];
  if (best.length) svg.append(el("polyline", {class: "front", points: best.map(f => `${px(f.x[VALUE])},${py(f.y[VALUE])}`).join(" ")}),
    ...best.map(f => el("circle", {class: "front", cx: px(f.x[VALUE]), cy: py(f.y[VALUE]), r: 8})));
  svg.append(el("circle", {class: "ring", r: 9, visibility: "hidden"}));
  return found.map(f => ({found: f, x: px(f.x[VALUE]), y: py(f.y[VALUE])}));
}

/** One line: its band, its course, and the points with their intervals. */
function drawn(found, px, py, state) {
  const {line} = found[0], colour = paint(line), real = found.filter(f => !f.point.interpolated), made = [], dense = real.length > MANY;
  const between = (f, more) => el("line", {x1: px(f.x[VALUE]), x2: px(f.x[VALUE]), y1: py(low(f.y)), y2: py(high(f.y)), stroke: colour, ...more});
  if (line.joined && real.length) {
    const knots = course(real), edge = side => knots.map(k => `${px(k[0])},${py(k[side])}`);
    if (state.bands) made.push(el("polygon", {points: [...edge(2), ...edge(3).reverse()].join(" "), fill: colour, class: "band"}));
    made.push(el("polyline", {points: edge(1).join(" "), stroke: colour, class: line.colour === null ? "line base" : "line"}));
  }
  for (const f of found) {
    const there = {transform: `translate(${px(f.x[VALUE])} ${py(f.y[VALUE])})`};
    if (state.bands && !dense) made.push(between(f));
    if (f.point.interpolated) made.push(el("path", {d: "M0-8L8 0L0 8L-8 0Z", stroke: colour, class: "between", ...there}));
    else if (!dense || !line.joined) made.push(mark(line, there));
  }
  return made;
}

/** A table of rank correlations; a click draws the pair. */
function correlations(matrix, data, choose, home) {
  const names = matrix.keys.map(i => data.axes[i].label), head = el("tr", {}, el("td"), ...names.slice(0, -1).map(n => el("th", {textContent: n, scope: "col"})));
  home.append(head, ...matrix.keys.slice(1).map((row, i) => el("tr", {}, el("th", {textContent: names[i + 1], scope: "row"}),
    ...matrix.keys.slice(0, i + 1).map((column, j) => {
      const v = matrix.cells[i + 1][j];
      if (!v) return el("td", {textContent: "–"});
      const share = Math.round(Math.abs(v[VALUE]) * 70), cell = el("button", {type: "button", onclick: () => choose(column, row)},
        el("b", {textContent: v[VALUE].toFixed(2)}), v[LOW] === null ? "" : ` ${v[LOW].toFixed(2)} to ${v[HIGH].toFixed(2)}`, el("small", {textContent: ` n ${v[N]}`}));
      cell.style.background = `color-mix(in srgb, var(${v[VALUE] < 0 ? "--minus" : "--plus"}) ${share}%, var(--paper))`;
      return el("td", {}, cell);
    }))));
  home.parentElement.hidden = false;
}

if (typeof document === "undefined") module.exports = {written, told, ticks, scale, ends, shown, front, course, read, write};
else start();
