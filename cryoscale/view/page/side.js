// One map: a year and a layer of it, with the year's outlines. Two of them make the swipe.

const OVER = { classes: "colour", confidence: "colour" };  // what lies beneath a layer that is laid over another
const FIRST_LINES = "anchor-lines", FIRST_OVER = "anchor-over";

const since = ["coalesce", ["feature-state", "change"], -9];
const known = [">", since, -9];
const AMBER = "#ffb000";
export const changeColours = [[-0.25, "#c0392b"], [-0.1, "#e98d6b"], [0, "#f7f7f7"], [0.1, "#7fb5dc"], [0.25, "#1f5f99"]];

export class Side {
  constructor(container, shown, place) {
    this.shown = shown;
    this.current = {};                           // by slot ("ground", "over"): the id of the layer that is shown
    this.outlined = null;                        // the year whose outlines are shown
    const [west, south, east, north] = shown.bounds;
    const margin = [Math.max(east - west, 0.2) * 1.5, Math.max(north - south, 0.2) * 1.5];
    this.map = new maplibregl.Map({
      container,
      ...(place
        ? { zoom: place[0], center: [place[2], place[1]] }
        : { bounds: [[west, south], [east, north]], fitBoundsOptions: { padding: framing() } }),
      maxBounds: [[west - margin[0], Math.max(south - margin[1], -85)], [east + margin[0], Math.min(north + margin[1], 85)]],
      attributionControl: false, maxZoom: 17, maxPitch: 0, dragRotate: false, pitchWithRotate: false, touchPitch: false,
      renderWorldCopies: shown.bounds[2] > 180, fadeDuration: 0,
      style: {
        version: 8, sources: {},
        layers: [
          { id: "paper", type: "background", paint: { "background-color": "#e9edf1" } },
          ...[FIRST_OVER, FIRST_LINES].map(id => ({ id, type: "background", layout: { visibility: "none" } })),
        ],
      },
    });
    this.map.touchZoomRotate.disableRotation();
    this.map.keyboard.disableRotation();
    this.ready = new Promise(resolve => this.map.once("style.load", resolve));
  }

  show({ year, layer }, opacity) {
    const over = OVER[layer] ? layer : null;
    this.#raster("ground", `${OVER[layer] ?? layer}-${year}`, 1, FIRST_OVER);
    this.#raster("over", over && `${over}-${year}`, opacity, FIRST_LINES);
    if (this.shown.outlined.includes(year)) this.#outlines(year);
    else this.#hideOutlines();
  }

  // The former picture of a slot stays beneath until the next is there, so that years can be blinked at.
  #raster(slot, id, opacity, before) {
    const former = this.current[slot];
    this.current[slot] = id;
    if (id) {
      this.#add(id, before);
      this.map.setLayoutProperty(id, "visibility", "visible");
      this.map.setPaintProperty(id, "raster-opacity", opacity);
      this.map.moveLayer(id, before);
    }
    if (!former || former === id) return;
    const hide = () => {
      if (this.current[slot] !== former) this.map.setLayoutProperty(former, "visibility", "none");
    };
    if (!id) return hide();
    const arrived = () => {
      if (this.current[slot] === id && !this.map.isSourceLoaded(id)) return;
      this.map.off("sourcedata", arrived);
      hide();
    };
    this.map.on("sourcedata", arrived);
    arrived();
  }

  #add(id, before) {
    if (this.map.getSource(id)) return;
    const [layer, year] = id.split("-");
    const [minzoom, maxzoom] = this.shown.zooms[layer];
    this.map.addSource(id, {
      type: "raster", tiles: [`${location.origin}/tiles/${layer}/${year}/{z}/{x}/{y}`], tileSize: this.shown.tilePx,
      minzoom, maxzoom, ...this.#within(),
    });
    const sharp = layer === "classes" || layer === "confidence";
    this.map.addLayer({
      id, type: "raster", source: id,
      paint: { "raster-fade-duration": 0, "raster-resampling": sharp ? "nearest" : "linear" },
    }, before);
  }

  // Where tiles are asked for; what lies on both sides of 180 degrees cannot be told so.
  #within() {
    const [west, south, east, north] = this.shown.bounds;
    return east > 180 ? {} : { bounds: [west, Math.max(south, -85), east, Math.min(north, 85)] };
  }

  #hideOutlines() {
    if (this.outlined === null) return;
    for (const id of lineIds(this.outlined)) this.map.setLayoutProperty(id, "visibility", "none");
    this.outlined = null;
  }

  #outlines(year) {
    if (this.outlined === year) return;
    this.#hideOutlines();
    this.outlined = year;
    const source = `outlines-${year}`;
    if (!this.map.getSource(source)) {
      this.map.addSource(source, {
        type: "vector", tiles: [`${location.origin}/outlines/${year}/{z}/{x}/{y}`], minzoom: 0, maxzoom: 12,
        ...this.#within(), promoteId: { glaciers: "glac_id" },
      });
      const line = (name, layer, paint, filter) => this.map.addLayer({
        id: `${name}-${year}`, type: "line", source, "source-layer": layer, ...(filter ? { filter } : {}),
        layout: { "line-join": "round" }, paint,
      });
      this.map.addLayer({ id: `area-${year}`, type: "fill", source, "source-layer": "glaciers", paint: { "fill-color": AMBER, "fill-opacity": 0 } });
      line("casing", "glaciers", { "line-color": "#fff", "line-width": ["interpolate", ["linear"], ["zoom"], 8, 1.6, 14, 4.2] });
      line("glaciers", "glaciers", { "line-color": "#0b3c5d", "line-width": ["interpolate", ["linear"], ["zoom"], 8, 0.8, 14, 2] });
      line("debris", "debris", { "line-color": "#ff8c1a", "line-width": 1.3, "line-dasharray": [3, 1.5] });
      line("divides", "divides", { "line-color": "#f4e04d", "line-width": 1.8, "line-dasharray": [2, 1.5] });
      line("halo", "glaciers", { "line-color": "#15191f", "line-width": 5.5 }, ["==", "glac_id", ""]);
      line("chosen", "glaciers", { "line-color": AMBER, "line-width": 3.2 }, ["==", "glac_id", ""]);
    }
    for (const id of lineIds(year)) this.map.setLayoutProperty(id, "visibility", "visible");
  }

  // Which lines, which glaciers, and how they are coloured.
  style({ lines, minArea, change, byChange }) {
    const year = this.outlined;
    if (year === null) return;
    const large = [">=", ["get", "area_km2"], minArea];
    const wanted = !change ? true
      : change.kind === "lost" ? ["all", known, ["<=", since, -change.least]] : [">=", since, change.least];
    const visible = wanted === true ? 1 : ["case", wanted, 1, 0];
    const faint = wanted === true ? 0.75 : ["case", wanted, 0.75, 0];
    for (const name of ["area", "casing", "glaciers"]) this.map.setFilter(`${name}-${year}`, minArea ? large : null);
    this.map.setPaintProperty(`casing-${year}`, "line-opacity", faint);
    this.map.setPaintProperty(`casing-${year}`, "line-color", byChange ? "#15191f" : "#fff");
    this.map.setPaintProperty(`glaciers-${year}`, "line-opacity", visible);
    const widths = byChange ? [1.6, 3.2] : [0.8, 2];
    this.map.setPaintProperty(`glaciers-${year}`, "line-width", ["interpolate", ["linear"], ["zoom"], 8, widths[0], 14, widths[1]]);
    this.map.setPaintProperty(`casing-${year}`, "line-width", ["interpolate", ["linear"], ["zoom"], 8, 2 * widths[0], 14, widths[1] + 2.2]);
    this.map.setPaintProperty(`glaciers-${year}`, "line-color", byChange
      ? ["case", known, ["interpolate", ["linear"], since, ...changeColours.flat()], "#9aa3ad"] : "#0b3c5d");
    for (const name of ["debris", "divides"]) this.#visible(`${name}-${year}`, lines.includes(name));
    for (const name of ["area", "casing", "glaciers"]) this.#visible(`${name}-${year}`, lines.includes("glaciers"));
  }

  #visible(id, seen) {
    this.map.setLayoutProperty(id, "visibility", seen ? "visible" : "none");
  }

  changes(table) {
    if (this.outlined === null) return;
    const source = `outlines-${this.outlined}`;
    this.map.removeFeatureState({ source, sourceLayer: "glaciers" });
    table.glac_id.forEach((id, index) => {
      if (table.change[index] !== null) this.map.setFeatureState({ source, sourceLayer: "glaciers", id }, { change: table.change[index] });
    });
  }

  choose(glacId) {
    if (this.outlined === null) return;
    for (const name of ["halo", "chosen"]) this.map.setFilter(`${name}-${this.outlined}`, ["==", ["get", "glac_id"], glacId ?? ""]);
  }

  // glac_id under a point; of ice that lies over other ice the smaller.
  at(point, wanted) {
    if (this.outlined === null) return null;
    const found = this.map.queryRenderedFeatures(point, { layers: [`area-${this.outlined}`] })
      .map(one => one.properties).filter(one => wanted(one.glac_id));
    found.sort((a, b) => a.area_km2 - b.area_km2);
    return found[0]?.glac_id ?? null;
  }
}

const lineIds = year => ["area", "casing", "glaciers", "debris", "divides", "halo", "chosen"].map(name => `${name}-${year}`);

// Room for the settings where there is any beside them.
function framing() {
  const wide = innerWidth > 900;
  return { top: 24, bottom: 56, right: 24, left: wide ? 310 : 24 };
}
