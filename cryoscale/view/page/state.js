// What is shown, and the same as the part of the address after #: a permalink.

const defaults = shown => ({
  place: null,                                   // [zoom, latitude, longitude]; null: all of it
  left: { year: shown.years.at(-1), layer: "colour" },
  right: null,                                   // the same of the other side of the swipe
  at: 0.5,                                       // where the border between the sides is, of the width
  opacity: 1,
  lines: ["glaciers"],
  byChange: false,
  minArea: 0,                                    // km2
  since: shown.years[0],
  change: null,                                  // {kind: "lost" | "gained", least: 0-1}
  glacier: null,                                 // an id that stays over the years
});

export const layers = { colour: "True colour", classes: "Classes", confidence: "Confidence", relief: "Relief" };

export function parse(hash, shown) {
  const state = defaults(shown);
  const told = new URLSearchParams(hash.replace(/^#/, ""));
  const place = (told.get("map") ?? "").split("/").map(Number);
  if (place.length === 3 && place.every(Number.isFinite) && Math.abs(place[1]) < 86) state.place = place;
  state.left = side(told.get("show"), shown) ?? state.left;
  state.right = side(told.get("with"), shown);
  const number = (name, low, high, otherwise) => {
    const value = told.has(name) ? Number(told.get(name)) : NaN;
    return value >= low && value <= high ? value : otherwise;
  };
  state.at = number("at", 0, 1, state.at);
  state.opacity = number("strength", 0, 1, state.opacity);
  state.minArea = number("min", 0, 1e6, 0);
  const since = number("since", 0, 9999, state.since);
  if (shown.years.includes(since)) state.since = since;
  if (told.has("lines")) state.lines = told.get("lines").split(",").filter(name => ["glaciers", "debris", "divides"].includes(name));
  state.byChange = told.get("by") === "change";
  const change = /^(lost|gained):([\d.]+)$/.exec(told.get("change") ?? "");
  if (change) state.change = { kind: change[1], least: Number(change[2]) };
  state.glacier = told.get("glacier");
  return state;
}

function side(text, shown) {
  const [year, layer] = (text ?? "").split(".");
  return shown.years.includes(Number(year)) && layer in layers ? { year: Number(year), layer } : null;
}

export function format(state, shown) {
  const usual = defaults(shown), told = [];
  const add = (name, value) => told.push(`${name}=${encodeURIComponent(value).replace(/%2F/g, "/").replace(/%2C/g, ",").replace(/%3A/g, ":")}`);
  if (state.place) add("map", state.place.map((value, index) => value.toFixed(index ? 5 : 2)).join("/"));
  add("show", `${state.left.year}.${state.left.layer}`);
  if (state.right) {
    add("with", `${state.right.year}.${state.right.layer}`);
    add("at", state.at.toFixed(3));
  }
  if (state.opacity !== 1) add("strength", state.opacity);
  if (state.lines.join() !== usual.lines.join()) add("lines", state.lines.join());
  if (state.byChange) add("by", "change");
  if (state.minArea) add("min", state.minArea);
  if (state.since !== usual.since) add("since", state.since);
  if (state.change) add("change", `${state.change.kind}:${state.change.least}`);
  if (state.glacier) add("glacier", state.glacier);
  return `#${told.join("&")}`;
}
