/** All heads of all layers, small: press one to see it. */

import { button, h, setAttribute } from "../dom.js";
import { paintMatrix } from "../scale.js";

/**
 * @typedef {import("../app.js").LayerMaps} LayerMaps
 * @typedef {{ element: HTMLButtonElement, canvas: HTMLCanvasElement, drawn: LayerMaps | null }} Cell
 */

/** @type {import("../app.js").View} */
export const overview = {
  id: "overview",
  title: "All layers and heads",
  mount(root, app) {
    const heading = h("h2", {}, "All layers and heads");
    const progress = h("progress", { "aria-label": "Layers that have run" });
    const told = h("span", { class: "muted" });
    const stop = button("Stop", () => {
      app.resources.stop("maps");
      app.resources.stop("shown maps");
    });
    const repeat = button("Go on", () => app.resources.repeatFailed());
    const table = h("table", { class: "grid" });
    root.append(
      h(
        "div",
        { class: "card-head" },
        heading,
        h("div", { class: "progress" }, told, stop, repeat),
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
        cells = reading.layers.map(({ name, num_heads }, layer) =>
          Array.from({ length: num_heads }, (_, head) => {
            const canvas = h("canvas", { "aria-hidden": "true" });
            const element = button(canvas, () => app.set({ layer, head }), {
              class: "cell",
              "aria-label": `Layer ${name}, head ${head}`,
              title: `layer ${name}, head ${head}`,
            });
            return { element, canvas, drawn: null };
          }),
        );
        layOut(table, reading.layers, cells);
        layout = key;
      }

      const theme = app.theme.name;
      const paint = `${state.scale} ${theme}`;
      const maps = data.maps?.isCurrent ? data.maps.value : undefined;
      cells.forEach((row, layer) => {
        const found = maps?.layers[layer] ?? null;
        row.forEach((cell, head) => {
          const isChosen = layer === data.place.layer && head === data.place.head;
          setAttribute(cell.element, "aria-pressed", String(isChosen));
          setAttribute(cell.element, "tabindex", isChosen ? 0 : -1);
          cell.element.classList.toggle("waiting", !found);
          if (!found || (found === cell.drawn && paint === painted)) return;
          const { size } = found;
          const weights = found.maps.subarray(head * size * size, (head + 1) * size * size);
          paintMatrix(cell.canvas, weights, size, state.scale, theme);
          cell.drawn = found;
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
      told.textContent =
        isLoading || repeat.hidden === false ? `${done} of ${cells.length} layers` : "";
    };
  },
};

/**
 * @param {HTMLTableElement} table
 * @param {{ name: string }[]} layers
 * @param {Cell[][]} cells
 */
function layOut(table, layers, cells) {
  const numHeads = Math.max(...cells.map((row) => row.length));
  table.style.setProperty("--heads", String(numHeads));
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
