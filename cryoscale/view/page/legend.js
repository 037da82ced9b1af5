// What the colours mean, for what is on the map just now.

import { el } from "./glacier.js";
import { changeColours } from "./side.js";

const box = (colour, opacity = 1) => swatch(`<rect width="16" height="12" rx="2" fill="${colour}" fill-opacity="${opacity}" stroke="#15191f" stroke-width=".5"/>`);
const line = (colour, dashes, under) => swatch(
  `${under ? `<path d="M0 6H20" stroke="${under}" stroke-width="4"/>` : ""}<path d="M0 6H20" stroke="${colour}" stroke-width="1.8" stroke-dasharray="${dashes}"/>`, 20);

function swatch(content, width = 16) {
  const holder = document.createElement("template");
  holder.innerHTML = `<svg width="${width}" height="12" viewBox="0 0 ${width} 12" aria-hidden="true">${content}</svg>`;
  return holder.content.firstChild;
}

function scale(low, colours, high) {
  const stops = colours.map((colour, i) => `<rect x="${i * 100 / colours.length}" width="${100 / colours.length + 1}" height="12" fill="${colour}"/>`);
  return el("div", { class: "scale" }, low, swatch(stops.join(""), 100), high);
}

export function draw(holder, state, shown, zoom) {
  const layers = [state.left, state.right].filter(Boolean).map(side => side.layer);
  const parts = [];
  if (layers.includes("classes")) {
    parts.push(el("ul", {}, ...shown.classes.map(one => el("li", {}, box(one.colour, one.opacity), one.name))));
  }
  if (layers.includes("confidence")) {
    parts.push(el("div", {}, "Confidence of the class", scale("0", shown.confidence.colours.map(c => `rgb(${c})`), "1")));
  }
  if (layers.some(layer => layer !== "relief")) parts.push(el("ul", {}, el("li", {}, box("#8a8a8a"), "grey relief: no clear image")));
  const lines = [];
  if (state.lines.includes("glaciers") && !state.byChange) lines.push(el("li", {}, line("#0b3c5d", "0", "#fff"), "Glacier outline"));
  if (state.lines.includes("debris")) lines.push(el("li", {}, line("#ff8c1a", "4 2"), "Debris cover"));
  if (state.lines.includes("divides")) lines.push(el("li", {}, line("#f4e04d", "3 2", "#0b3c5d"), "Ice divide"));
  if (lines.length) parts.push(el("ul", {}, ...lines));
  if (state.lines.includes("glaciers") && state.byChange) {
    const [least, most] = [changeColours[0][0], changeColours.at(-1)[0]];
    parts.push(el("div", {}, `Change of area since ${state.since}`,
      scale(`−${-100 * least} %`, changeColours.map(one => one[1]), `+${100 * most} %`), el("p", { class: "soft" }, "grey: not known, split or merged")));
  }
  if (zoom < shown.zooms.colour[0]) parts.push(el("p", { class: "soft" }, "Zoom in to see imagery."));
  holder.replaceChildren(...parts);
}
