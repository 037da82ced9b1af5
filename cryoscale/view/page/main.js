// Puts the page together: state, two sides, settings, the list, and the glacier that was chosen.

import { area, draw as drawGlacier, el, percent } from "./glacier.js";
import { draw as drawLegend } from "./legend.js";
import { Side } from "./side.js";
import { format, layers, parse } from "./state.js";

const $ = id => document.getElementById(id);
const SMALLEST_KM2 = 0.01, LISTED = 200;
const tables = new Map();                        // areas by "year since"; asked for once
let shown, state, left, right = null, glacier = null, table = null;

// null where there is nothing of that name, and where there is trouble, which is told.
async function fetched(path) {
  let answer;
  try {
    answer = await fetch(path);
  } catch {
    trouble("The server of this page does not answer.");
    return null;
  }
  if (answer.ok) return answer.json();
  if (answer.status !== 404) told(answer.status, await answer.text());
  return null;
}

function told(status, text) {
  const { detail } = status === 410 ? JSON.parse(text) : {};
  trouble(detail ?? `The server of this page could not answer (status ${status}): see its terminal.`);
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = false;
}

async function begin() {
  shown = await fetched("api/shown");
  if (!shown) return;
  state = parse(location.hash, shown);
  document.title = `${shown.name} · cryoscale`;
  $("name").textContent = shown.name;
  $("banner").hidden = !shown.simulated;
  $("credit").textContent = `${shown.note}. Map: MapLibre GL JS.`;
  try {
    left = new Side($("left"), shown, state.place);
  } catch {
    return trouble("This browser cannot draw the map: it has no WebGL. Try another one, or look at report.html.");
  }
  left.map.addControl(new maplibregl.ScaleControl({ maxWidth: 140 }), "bottom-left");
  left.map.addControl(new maplibregl.NavigationControl({ showCompass: false }), "bottom-left");
  window.map = left.map;                         // for whoever looks at it from the console
  follow(left);
  settings();
  await left.ready;
  if (!location.hash.includes("show=") && left.map.getZoom() < shown.zooms.colour[0]) state.left.layer = "classes";
  await compare();
  await update();
  left.map.once("idle", () => {
    document.documentElement.dataset.drawn = Math.round(performance.now());
  });
  if (state.glacier) choose(await fetched(`api/glaciers/${encodeURIComponent(state.glacier)}`));
  if (!shown.outlined.length) trouble("There are no vector tiles of the outlines: cryoscale outline DIR --files pmtiles makes them.");
}

function follow(side) {
  side.map.on("move", () => {
    const other = side === left ? right : left;
    if (!other || follow.busy) return;
    follow.busy = true;
    other.map.jumpTo({ center: side.map.getCenter(), zoom: side.map.getZoom() });
    follow.busy = false;
  });
  side.map.on("moveend", () => {
    if (side !== left) return;
    const { lng, lat } = left.map.getCenter();
    state.place = [left.map.getZoom(), lat, lng];
    remember();
    drawLegend($("legend"), state, shown, left.map.getZoom());
  });
  side.map.on("error", async ({ error }) => {    // of a tile, whose status is 0 where nobody answers
    if (error?.status === 404) return;
    if (error?.status === 0) trouble("The server of this page does not answer.");
    else if (error?.status) told(error.status, await error.body.text());
    else console.error(error);
  });
  side.map.on("click", async event => {
    const found = side.at(event.point, wanted);
    if (!found) return choose(null);
    choose(await fetched(`api/glaciers/${encodeURIComponent(found)}?year=${side.outlined}`));
  });
  side.map.on("mousemove", event => {
    side.map.getCanvas().style.cursor = side.at(event.point, wanted) ? "pointer" : "";
  });
}

function wanted(glacId) {
  if (!state.change || !table) return true;
  const index = table.glac_id.indexOf(glacId);
  return index < 0 || passes(table, index);
}

function passes(one, index) {
  if (one.area_km2[index] < state.minArea) return false;
  if (!state.change) return true;
  const change = one.change[index];
  return change !== null && (state.change.kind === "lost" ? change <= -state.change.least : change >= state.change.least);
}

const remember = () => history.replaceState(null, "", format(state, shown));

async function areas(year, since) {
  const key = `${year} ${since}`;
  if (!tables.has(key)) tables.set(key, await fetched(`api/areas/${year}?since=${since}`));
  return tables.get(key);
}

// Everything that depends on the state, but for the place.
async function update() {
  const sides = [[left, state.left], ...(right ? [[right, state.right]] : [])];
  for (const [side, asked] of sides) {
    side.show(asked, state.opacity);
    side.style(state);
    side.choose(glacIdIn(asked.year));
  }
  $("left-tag").textContent = label(state.left);
  $("right-tag").textContent = state.right ? label(state.right) : "";
  drawSettings();
  drawLegend($("legend"), state, shown, left.map.getZoom());
  if (glacier) drawPanel();
  remember();
  for (const [side, asked] of sides) {
    const found = await areas(asked.year, state.since);
    if (asked.year !== side.outlined || !found) continue;
    if (state.byChange || state.change) side.changes(found);
    if (side === left) {
      table = found;
      drawCount();
    }
  }
}

const label = side => `${side.year}, ${layers[side.layer].toLowerCase()}`;
const glacIdIn = year => glacier?.years.find(one => one.year === year)?.glac_id ?? null;

function choose(found) {
  glacier = found;
  state.glacier = found?.id ?? null;
  for (const [side, asked] of [[left, state.left], [right, state.right]]) if (side) side.choose(glacIdIn(asked.year));
  if (glacier) drawPanel();
  else $("glacier").hidden = true;
  for (const button of $("list").querySelectorAll("button")) button.setAttribute("aria-current", button.dataset.id === state.glacier);
  remember();
}

function drawPanel() {
  drawGlacier($("glacier"), glacier, state.left.year, shown, {
    close: () => choose(null),
    year: year => { state.left.year = year; update(); },
    zoom: zoomTo,
  });
}

function zoomTo() {
  const { attributes: told } = glacier.years.find(one => one.year === state.left.year) ?? glacier.years.at(-1);
  const reach_m = Math.max(told.lmax_m ?? 0, 1500 * Math.sqrt(told.area_km2 ?? 1), 400) * 0.75;
  const north = reach_m / 111_000, east = north / Math.cos(told.cenlat * Math.PI / 180);
  const edges = innerWidth > 900 ? { top: 30, bottom: 60, left: 310, right: 350 } : 30;
  left.map.fitBounds([[told.cenlon - east, told.cenlat - north], [told.cenlon + east, told.cenlat + north]], { padding: edges, duration: 600 });
}

// --- settings ---

function settings() {
  for (const name of ["left", "right"]) $(`${name}-settings`).append(...sideSettings(name));
  const several = shown.years.length > 1;
  $("compare").addEventListener("change", async event => {
    const { year, layer } = state.left, [first, last] = [shown.years[0], shown.years.at(-1)];
    if (!event.target.checked) state.right = null;
    else if (several) state.right = { year: year === last ? first : last, layer };
    else state.right = { year, layer: layer === "classes" ? "colour" : "classes" };
    await compare();
    update();
  });
  const on = (id, kind, act) => $(id).addEventListener(kind, event => { act(event.target); update(); });
  on("opacity", "input", input => { state.opacity = input.value / 100; });
  for (const box of document.getElementsByName("lines")) {
    box.addEventListener("change", () => {
      state.lines = [...document.getElementsByName("lines")].filter(one => one.checked).map(one => one.value);
      update();
    });
  }
  on("by-change", "change", input => { state.byChange = input.checked; });
  on("min-area", "input", input => { state.minArea = areaOf(Number(input.value)); });
  $("since").append(...shown.years.map(year => el("option", { value: year }, String(year))));
  on("since", "change", input => { state.since = Number(input.value); });
  const change = () => {
    const kind = $("change-kind").value;
    state.change = kind ? { kind, least: Math.min(Math.max(Number($("change-least").value) || 0, 0), 1000) / 100 } : null;
  };
  on("change-kind", "change", change);
  on("change-least", "input", change);
  $("change-rows").hidden = $("by-change-row").hidden = !several;
  $("fold").addEventListener("click", () => fold(!$("settings").hidden));
  if (innerWidth < 704) fold(true);
  $("list").addEventListener("toggle", drawCount);
  divider();
  addEventListener("keydown", key);
  addEventListener("hashchange", async () => {
    const next = parse(location.hash, shown);
    if (format(next, shown) === format(state, shown)) return;
    state = next;
    if (state.place) left.map.jumpTo({ zoom: state.place[0], center: [state.place[2], state.place[1]] });
    await compare();
    choose(state.glacier ? await fetched(`api/glaciers/${encodeURIComponent(state.glacier)}`) : null);
    update();
  });
}

function fold(folded) {
  $("settings").hidden = folded;
  $("fold").textContent = folded ? "+" : "–";
  $("fold").setAttribute("aria-expanded", !folded);
}

function sideSettings(name) {
  const several = shown.years.length > 1;
  const slider = el("input", {
    type: "range", id: `${name}-year`, min: 0, max: shown.years.length - 1, step: 1, "aria-label": "Year",
    oninput: event => { state[name].year = shown.years[event.target.value]; update(); },
  });
  const choices = Object.entries(layers).map(([layer, words]) => el("label", {}, el("input", {
    type: "radio", name: `${name}-layer`, value: layer, onchange: () => { state[name].layer = layer; update(); },
  }), words));
  return [
    el("div", { class: "year" }, el("b", { id: `${name}-told` }), ...(several ? [slider] : [])),
    el("div", { class: "layers", role: "radiogroup", "aria-label": "Layer" }, ...choices),
  ];
}

function drawSettings() {
  for (const name of ["left", "right"]) {
    const side = state[name];
    $(`${name}-settings`).hidden = !side;
    if (!side) continue;
    $(`${name}-told`).textContent = side.year;
    if ($(`${name}-year`)) {
      $(`${name}-year`).value = shown.years.indexOf(side.year);
      $(`${name}-year`).setAttribute("aria-valuetext", side.year);
    }
    for (const input of document.getElementsByName(`${name}-layer`)) input.checked = input.value === side.layer;
  }
  $("compare").checked = Boolean(state.right);
  $("opacity").value = 100 * state.opacity;
  $("opacity-row").hidden = ![state.left, state.right].some(side => side && ["classes", "confidence"].includes(side.layer));
  for (const box of document.getElementsByName("lines")) box.checked = state.lines.includes(box.value);
  $("by-change").checked = state.byChange;
  $("min-area").value = stepOf(state.minArea);
  $("min-area-told").textContent = state.minArea ? `${area(state.minArea)} km²` : "any size";
  $("since").value = state.since;
  $("change-kind").value = state.change?.kind ?? "";
  if (state.change && document.activeElement !== $("change-least")) $("change-least").value = Math.round(1000 * state.change.least) / 10;
  $("change-least-row").hidden = !state.change;
}

// The slider's 100 steps are even in the logarithm: 0 is any size, 100 is 100 km2.
const areaOf = step => step ? Number((SMALLEST_KM2 * 10 ** (step / 25)).toPrecision(2)) : 0;
const stepOf = km2 => km2 ? Math.round(25 * Math.log10(km2 / SMALLEST_KM2)) : 0;

function drawCount() {
  if (!table) return;
  const indices = [...table.glac_id.keys()], kept = indices.filter(index => passes(table, index));
  const sum = which => area(which.reduce((total, index) => total + table.area_km2[index], 0));
  $("count").textContent = kept.length === indices.length
    ? `${kept.length} glaciers, ${sum(kept)} km² in ${state.left.year}`
    : `${kept.length} of ${indices.length} glaciers, ${sum(kept)} of ${sum(indices)} km² in ${state.left.year}`;
  if (!$("list").open) return;
  const byChange = state.change || state.byChange;
  kept.sort(byChange ? (a, b) => (table.change[a] ?? 9) - (table.change[b] ?? 9) : (a, b) => table.area_km2[b] - table.area_km2[a]);
  $("list").querySelector("ol").replaceChildren(...kept.slice(0, LISTED).map(index => el("li", {}, el("button", {
    type: "button", "data-id": table.id[index], "aria-current": String(table.id[index] === state.glacier),
    onclick: async () => {
      choose(await fetched(`api/glaciers/${encodeURIComponent(table.id[index])}`));
      zoomTo();
    },
  }, el("span", {}, table.id[index]), el("span", {}, `${area(table.area_km2[index])}\u00a0km²`),
  el("span", {}, table.change[index] === null || state.since === state.left.year ? "" : percent(table.change[index]))))));
}

// --- the swipe ---

async function compare() {
  if (state.right && !right) {
    const { lng, lat } = left.map.getCenter();
    $("right").hidden = false;
    right = new Side($("right"), shown, [left.map.getZoom(), lat, lng]);
    follow(right);
    await right.ready;
  }
  $("right").hidden = $("divider").hidden = !state.right;
  if (!state.right && right) {
    right.map.remove();
    right = null;
  }
  place();
}

function place() {
  $("divider").style.left = `${100 * state.at}%`;
  $("divider").setAttribute("aria-valuenow", Math.round(100 * state.at));
  $("right").style.clipPath = `inset(0 0 0 ${100 * state.at}%)`;
}

function divider() {
  const handle = $("divider");
  const to = at => { state.at = Math.min(Math.max(at, 0.02), 0.98); place(); };
  handle.addEventListener("pointerdown", event => { handle.setPointerCapture(event.pointerId); event.preventDefault(); handle.focus(); });
  handle.addEventListener("pointermove", event => { if (handle.hasPointerCapture(event.pointerId)) to(event.clientX / innerWidth); });
  handle.addEventListener("pointerup", remember);
  handle.addEventListener("keydown", event => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1 }[event.key];
    if (!step) return;
    event.preventDefault();
    to(state.at + step);
    remember();
  });
}

function key(event) {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const index = shown.years.indexOf(state.left.year), names = Object.keys(layers);
  if (event.key === "Escape") return choose(null);
  if (event.key === "," && index > 0) state.left.year = shown.years[index - 1];
  else if (event.key === "." && index < shown.years.length - 1) state.left.year = shown.years[index + 1];
  else if (names[Number(event.key) - 1]) state.left.layer = names[Number(event.key) - 1];
  else return;
  update();
}

begin();
