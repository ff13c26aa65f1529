/** Small maps of all heads of all layers. A press on a map shows its head. */

import { button, h, setAttribute } from "../dom.js";
import { boundariesOf } from "../head.js";
import { colourOf, format, paintMatrix, shareOf, textOn } from "../scale.js";

/**
 * @typedef {import("../app.js").LayerMaps} LayerMaps
 * @typedef {{ element: HTMLButtonElement, canvas: HTMLCanvasElement, number: HTMLElement,
 *   drawn: LayerMaps | null }} Cell
 */

/** @type {import("../app.js").View} */
export const overview = {
  id: "overview",
  title: "All layers and heads",
  mount(root, app) {
    const heading = h("h2", {}, "All layers and heads");
    const progress = h("progress", { "aria-label": "Layers that have run" });
    const status = h("span", { class: "muted" });
    const stop = button("Stop", () => {
      app.resources.stop("maps");
      app.resources.stop("filtered maps");
    });
    const repeat = button("Go on", () => app.resources.repeatFailed());
    const table = h("table", { class: "grid" });
    root.append(
      h(
        "div",
        { class: "card-head" },
        heading,
        h("div", { class: "progress" }, status, stop, repeat),
      ),
      progress,
      h("div", { class: "grid-scroll" }, table),
    );
    root.addEventListener("keydown", (event) => moveFocus(cells, event));

    /** @type {Cell[][]} */
    let cells = [];
    let layout = "";
    let painted = "";

    return (state, data) => {
      const reading = data.reading?.value;
      if (!reading) return;
      const key = JSON.stringify(reading.layers);
      if (key !== layout) {
        cells = reading.layers.map(({ num_heads }, layer) =>
          Array.from({ length: num_heads }, (_, head) => {
            const canvas = h("canvas", { "aria-hidden": "true" });
            const number = h("span", { class: "cell-number", "aria-hidden": "true" });
            const element = button(canvas, () => app.set({ layer, head }), { class: "cell" });
            element.append(number);
            return { element, canvas, number, drawn: null };
          }),
        );
        layOut(table, reading.layers, cells);
        layout = key;
      }

      showBoundary(table, "--row-boundary", reading.tokens, data.hidden);
      showBoundary(table, "--column-boundary", reading.keys, data.hiddenKeys);
      const theme = app.theme.name;
      const paint = `${state.scale} ${theme}`;
      const maps = data.maps?.isCurrent ? data.maps.value : undefined;
      cells.forEach((row, layer) => {
        const layerMaps = maps?.layers[layer] ?? null;
        row.forEach((cell, head) => {
          const isChosen = layer === data.place.layer && head === data.place.head;
          setAttribute(cell.element, "aria-pressed", String(isChosen));
          setAttribute(cell.element, "tabindex", isChosen ? 0 : -1);
          cell.element.classList.toggle("waiting", !layerMaps);
          const value = state.gridMeasure ? data.ranking?.layers[layer]?.[head] : undefined;
          showMeasure(cell, reading.layers[layer]?.name ?? "", head, state, value, theme);
          if (!layerMaps || (layerMaps === cell.drawn && paint === painted)) return;
          const size = layerMaps.numRows * layerMaps.numColumns;
          const weights = layerMaps.maps.subarray(head * size, (head + 1) * size);
          paintMatrix(cell.canvas, weights, layerMaps.numColumns, state.scale, theme);
          cell.drawn = layerMaps;
        });
      });
      painted = paint;

      const done = maps?.layers.length ?? 0;
      const isLoading = Boolean(data.maps?.isLoading);
      setAttribute(root, "aria-busy", String(isLoading || !maps));
      progress.max = cells.length;
      progress.value = done;
      progress.classList.toggle("done", !isLoading);
      stop.hidden = !isLoading;
      repeat.hidden = !data.maps?.isStopped;
      status.textContent =
        isLoading || repeat.hidden === false ? `${done} of ${cells.length} layers` : "";
    };
  },
};

/**
 * Let each map have a line where a second text begins.
 * @param {HTMLElement} table
 * @param {string} property of the style sheet, which is the line's place
 * @param {import("../app.js").Token[]} all rows or columns
 * @param {number[]} hidden
 */
function showBoundary(table, property, all, hidden) {
  const isHidden = new Set(hidden);
  const shown = [...all.keys()].filter((token) => !isHidden.has(token));
  const [place] = boundariesOf(all, shown);
  const share = place && `${(100 * place) / shown.length}%`;
  if (share) table.style.setProperty(property, share);
  else table.style.removeProperty(property);
}

/**
 * Set a cell's name, and show its measure on top of the map if the viewer chose so.
 * @param {Cell} cell
 * @param {string} layer
 * @param {number} head
 * @param {import("../state.js").State} state
 * @param {number | undefined} value
 * @param {"dark" | "light"} theme
 */
function showMeasure({ element, number }, layer, head, { gridMeasure, scale }, value, theme) {
  const isShown = value !== undefined && value >= 0.005;
  const text = isShown ? value.toFixed(2) : value === undefined ? "" : format(value);
  const share = value === undefined ? 0 : shareOf(scale)(value);
  element.classList.toggle("measured", gridMeasure);
  const name = `layer ${layer}, head ${head}${text && `: ${text}`}`;
  if (element.title === name && element.dataset.theme === `${theme} ${scale}`) return;
  element.title = name;
  element.dataset.theme = `${theme} ${scale}`;
  setAttribute(element, "aria-label", `L${name.slice(1)}`);
  number.textContent = isShown ? text.replace(/^0/, "") : "";
  number.style.background = colourOf(share, theme);
  number.style.color = textOn(share, theme);
}

/**
 * @param {HTMLTableElement} table
 * @param {{ name: string }[]} layers
 * @param {Cell[][]} cells
 */
function layOut(table, layers, cells) {
  const numHeads = Math.max(...cells.map((row) => row.length));
  table.style.setProperty("--heads", String(numHeads));
  const words = layers.flatMap(({ name }) => name.split(" "));
  table.style.setProperty("--name", String(Math.max(...words.map(({ length }) => length))));
  table.classList.toggle("few", cells.length * numHeads <= 4);
  const heads = Array.from({ length: numHeads }, (_, head) => h("th", { scope: "col" }, head));
  table.replaceChildren(
    h("caption", {}, "Rows are layers, columns are heads"),
    h("thead", {}, h("tr", {}, h("td"), ...heads)),
    h(
      "tbody",
      {},
      ...cells.map((row, layer) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, layers[layer]?.name ?? ""),
          ...row.map(({ element }) => h("td", {}, element)),
        ),
      ),
    ),
  );
}

/**
 * @param {Cell[][]} cells
 * @param {KeyboardEvent} event
 */
function moveFocus(cells, event) {
  const [down, right] =
    { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ??
    [];
  if (down === undefined || right === undefined) return;
  cells.forEach((row, layer) => {
    row.forEach(({ element }, head) => {
      if (element !== event.target) return;
      const next = cells[layer + down]?.[head + right]?.element;
      if (!next) return;
      event.preventDefault();
      next.focus();
    });
  });
}
