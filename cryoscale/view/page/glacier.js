// The glacier that was clicked: its areas over the years, and what the inventory says of it.

const MAIN = ["debris_fraction", "zmin_m", "zmed_m", "zmax_m", "slope_deg", "aspect_deg", "lmax_m", "src_date", "confidence"];
const HIDDEN = new Set(["area_km2", "area_low_km2", "area_high_km2"]);
const HAPPENED = { split: "Split", merge: "Merged with others", exchange: "Exchanged ice with others" };
const SVG = "http://www.w3.org/2000/svg";

export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter(child => child !== null));
  return node;
}

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Three significant digits, and no more than the fourth decimal.
export function area(km2) {
  return km2 >= 100 ? km2.toFixed(0) : km2 >= 10 ? km2.toFixed(1) : km2 >= 1 ? km2.toFixed(2) : km2.toFixed(3);
}

export const percent = share => `${share > 0 ? "+" : share < 0 ? "−" : ""}${Math.abs(100 * share).toFixed(1)}\u00a0%`;

export function draw(panel, glacier, year, shown, act) {
  const now = glacier.years.find(one => one.year === year) ?? null;
  const name = now?.attributes.glac_name ?? glacier.id;
  panel.replaceChildren(
    el("header", {}, el("h2", {}, name), el("button", { class: "close", type: "button", title: "Close", "aria-label": "Close", onclick: act.close }, "×")),
    ...(name === glacier.id ? [] : [el("p", { class: "soft told" }, glacier.id)]),
    now ? figure(now, year) : el("p", { class: "told" }, `No outline of it in ${year}.`),
    ...(glacier.years.length > 1 ? [chart(glacier.years, year, act.year), el("p", { class: "soft told" }, sentence(glacier.years))] : []),
    ...(now ? tables(now, shown) : []),
    el("p", { class: "told" }, el("button", { type: "button", onclick: act.zoom }, "Zoom to it")),
  );
  panel.hidden = false;
}

function figure(one, year) {
  const line = el("p", { class: "figure" }, `${area(one.area_km2)} km² `);
  const known = one.area_low_km2 !== null && one.area_high_km2 !== null;
  line.append(el("small", {}, known ? `(${area(one.area_low_km2)} to ${area(one.area_high_km2)}) in ${year}` : `in ${year}`));
  return line;
}

// From the first year to the last; where the intervals overlap, the maps alone do not tell.
function sentence(years) {
  const first = years[0], last = years.at(-1), change = last.area_km2 - first.area_km2;
  const sign = change < 0 ? "−" : "+";
  const other = years.slice(1).find(one => one.kind && one.kind !== "same");
  if (other) return `${HAPPENED[other.kind] ?? other.kind} before ${other.year}: areas before and after are not of the same ice.`;
  const words = `${first.year} to ${last.year}: ${sign}${area(Math.abs(change))} km² (${percent(change / first.area_km2)})`;
  const overlap = first.area_low_km2 !== null && last.area_low_km2 !== null
    && first.area_low_km2 <= last.area_high_km2 && last.area_low_km2 <= first.area_high_km2;
  return overlap ? `${words}; the intervals overlap.` : `${words}.`;
}

function chart(years, current, pick) {
  const width = 300, height = 128, left = 44, right = 14, top = 10, bottom = 22;
  const lows = years.map(one => one.area_low_km2 ?? one.area_km2), highs = years.map(one => one.area_high_km2 ?? one.area_km2);
  let low = Math.min(...lows), high = Math.max(...highs);
  const margin = Math.max((high - low) * 0.12, high * 0.01);
  [low, high] = [Math.max(0, low - margin), high + margin];
  const first = years[0].year, span = Math.max(years.at(-1).year - first, 1);
  const x = year => left + (width - left - right) * (year - first) / span;
  const y = km2 => top + (height - top - bottom) * (high - km2) / (high - low);
  const step = nice((high - low) / 5), ticks = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) ticks.push(value);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label":
    `Area over the years: ${years.map(one => `${one.year} ${area(one.area_km2)} km²`).join(", ")}` });
  for (const value of ticks) picture.append(
    svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), stroke: "#d9dee4" }),
    svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", fill: "#5a6472" }, value.toFixed(digits)));
  const band = [...years.map((one, i) => `${x(one.year)},${y(highs[i])}`), ...years.map((one, i) => `${x(one.year)},${y(lows[i])}`).reverse()];
  picture.append(
    svg("polygon", { points: band.join(" "), fill: "#2b6f9e", opacity: 0.16 }),
    svg("polyline", { points: years.map(one => `${x(one.year)},${y(one.area_km2)}`).join(" "), fill: "none", stroke: "#2b6f9e", "stroke-width": 1.6 }));
  const every = Math.ceil(years.length / 7);
  years.forEach((one, index) => {
    const dot = svg("g", {},
      svg("line", { x1: x(one.year), x2: x(one.year), y1: y(highs[index]), y2: y(lows[index]), stroke: "#2b6f9e" }),
      svg("circle", { cx: x(one.year), cy: y(one.area_km2), r: one.year === current ? 5 : 3.2, fill: one.year === current ? "#ffb000" : "#2b6f9e", stroke: "#15191f", "stroke-width": one.year === current ? 1 : 0 }),
      svg("rect", { x: x(one.year) - 12, y: top, width: 24, height: height - top, fill: "transparent" }));
    dot.style.cursor = "pointer";
    dot.append(svg("title", {}, `${one.year}: ${area(one.area_km2)} km²`));
    dot.addEventListener("click", () => pick(one.year));
    picture.append(dot);
    if (index % every === 0) picture.append(svg("text", { x: x(one.year), y: height - 6, "text-anchor": "middle", fill: "#5a6472" }, one.year));
  });
  picture.append(svg("text", { x: 2, y: top + 2, fill: "#5a6472" }, "km²"));
  return picture;
}

function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return [1, 2, 5, 10].map(one => one * power).find(one => one >= step);
}

function tables(one, shown) {
  const told = one.attributes, rest = Object.keys(told).filter(name => !MAIN.includes(name) && !HIDDEN.has(name));
  return [
    table(MAIN.filter(name => name in told), told, shown),
    el("details", {}, el("summary", {}, "All attributes"), table(rest, told, shown)),
  ];
}

function table(names, told, shown) {
  return el("table", {}, el("tbody", {}, ...names.map(name => {
    const column = shown.columns[name] ?? { label: name, about: "", units: "" };
    return el("tr", { title: column.about }, el("td", {}, column.label), el("td", {}, value(name, told[name], column.units)));
  })));
}

function value(name, raw, units) {
  if (typeof raw === "boolean") return raw ? "yes" : "no";
  if (typeof raw !== "number") return String(raw);
  if (/(_fraction|^confidence|_persistence)$/.test(name)) return `${(100 * raw).toFixed(0)} %`;
  if (name === "aspect_deg") return `${raw.toFixed(0)}° (${["N", "NE", "E", "SE", "S", "SW", "W", "NW"][Math.round(raw / 45) % 8]})`;
  if (name.endsWith("_deg")) return `${raw.toFixed(0)}°`;
  if (name.endsWith("_km2")) return `${area(raw)} km²`;
  if (name.endsWith("_m")) return `${raw.toFixed(0)} m`;
  if (/lat$|lon$/.test(name)) return `${raw.toFixed(4)}°`;
  return `${Number.isInteger(raw) ? raw : Number(raw.toPrecision(3))}${units ? ` ${units}` : ""}`;
}
