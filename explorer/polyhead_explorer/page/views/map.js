/** A head as a heat map: a row for each token, a column for each that it looks at. */

import { changes } from "../changes.js";
import { h } from "../dom.js";
import { matrixOf, placeOf } from "../head.js";
import { format, paintMatrix, shareOf, textOn } from "../scale.js";
import { Viewport } from "../viewport.js";

const MAX_CELL = 52;
const GAP_CELL = 10;
const NUMBER_CELL = 34;
const FONT = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";
const MAX_GUTTER = 110;
const MIN_TEXT = 10;

/**
 * @typedef {import("../head.js").Matrix} Matrix
 * @typedef {import("../viewport.js").Box} Box
 * @typedef {{ query: number, key: number }} Place
 */

/** @type {import("../app.js").View} */
export const map = {
  id: "map",
  title: "Heat map",
  mount(root, app) {
    /** @type {Matrix | null} */
    let matrix = null;
    /** @type {Place | null} */
    let pointed = null;
    let chosen = -1;
    let gutter = 40;
    const bitmap = document.createElement("canvas");

    const view = new Viewport({
      label: "Heat map. Arrow keys move from weight to weight.",
      size(box) {
        const length = gutter + cellOf(box) * (matrix?.size ?? 0) + 2;
        return { width: length, height: length };
      },
      draw(context, box) {
        if (matrix) drawMap(context, box, matrix);
      },
      point(x, y, box) {
        if (!matrix) return;
        const cell = cellOf(box);
        const key = Math.floor((x + box.left - gutter) / cell);
        const query = Math.floor((y + box.top - gutter) / cell);
        const isInside = x >= gutter && y >= gutter && key < matrix.size && query < matrix.size;
        show(isInside ? { query, key } : null);
      },
      press() {
        const token = pointed && matrix?.tokens[pointed.query];
        if (token !== null && token !== undefined) app.set({ token });
      },
      key(name) {
        const step = STEPS[name];
        if (!matrix || !step) return false;
        const from = pointed ?? { query: Math.max(chosen, 0), key: Math.max(chosen, 0) };
        const last = matrix.size - 1;
        const query = Math.min(Math.max(from.query + step[0], 0), last);
        const key = Math.min(Math.max(from.key + step[1], 0), last);
        show({ query, key });
        return true;
      },
    });
    root.append(view.element);
    const hasChanged = changes();

    return (state, data) => {
      const found = data.head?.value;
      const theme = app.theme.name;
      if (!found || !hasChanged(found, data.token, state.scale, theme)) return;
      const next = matrixOf(found);
      const isResized = next.size !== matrix?.size || next.labels.join() !== matrix.labels.join();
      matrix = next;
      chosen = placeOf(matrix, data.token);
      paintMatrix(bitmap, matrix.weights, matrix.size, state.scale, theme);
      if (isResized) {
        pointed = null;
        gutter = gutterOf(matrix);
        view.resize();
      }
      tell();
      view.draw();
    };

    /** @param {Place | null} place */
    function show(place) {
      if (place?.query === pointed?.query && place?.key === pointed?.key) return;
      pointed = place;
      tell();
      view.draw();
    }

    function tell() {
      view.readout.textContent = "";
      if (!matrix || !pointed) return;
      const weight = matrix.weights[pointed.query * matrix.size + pointed.key] ?? 0;
      const [from, to] = [matrix.labels[pointed.query], matrix.labels[pointed.key]];
      view.readout.append(
        h("b", { class: "query" }, from ?? ""),
        " looks at ",
        h("b", { class: "key" }, to ?? ""),
        `: ${format(weight)}`,
      );
    }

    /** @param {Matrix} shown */
    function gutterOf({ labels }) {
      const longest = Math.max(...labels.map((label) => label.length), 1);
      return Math.min(longest * 8 + 16, MAX_GUTTER) * view.box.unit;
    }

    /** @param {Box} box */
    function cellOf(box) {
      const fit = (Math.min(box.width, box.height) - gutter - 2) / Math.max(matrix?.size ?? 1, 1);
      return Math.min(fit, MAX_CELL * box.unit) * Math.max(box.zoom, 1);
    }

    /**
     * @param {CanvasRenderingContext2D} context
     * @param {Box} box
     * @param {Matrix} shown
     */
    function drawMap(context, box, shown) {
      const palette = app.theme.palette();
      const cell = cellOf(box);
      const side = cell * shown.size;
      const [x0, y0] = [gutter - box.left, gutter - box.top];
      context.save();
      context.beginPath();
      context.rect(gutter, gutter, box.width - gutter, box.height - gutter);
      context.clip();
      context.imageSmoothingEnabled = cell < 1;
      context.drawImage(bitmap, x0, y0, side, side);
      const [rows, columns] = [
        rangeOf(box.top, box.height, cell, shown.size),
        rangeOf(box.left, box.width, cell, shown.size),
      ];
      if (cell >= GAP_CELL)
        drawGaps(context, palette.surface, { x0, y0, cell, side, rows, columns });
      if (cell >= NUMBER_CELL)
        drawNumbers(context, shown, { x0, y0, cell, unit: box.unit, rows, columns });
      context.lineWidth = cell < GAP_CELL ? 1 : 2;
      if (chosen >= 0) {
        context.strokeStyle = palette.query;
        context.strokeRect(x0 + 1, y0 + chosen * cell, side - 2, cell);
      }
      if (pointed) {
        context.strokeStyle = palette.text;
        context.strokeRect(x0 + pointed.key * cell, y0 + pointed.query * cell, cell, cell);
      }
      context.restore();
      drawNames(context, box, shown, { x0, y0, cell, rows, columns, palette });
    }

    /**
     * @param {CanvasRenderingContext2D} context
     * @param {Matrix} shown
     * @param {{ x0: number, y0: number, cell: number, unit: number, rows: Range,
     *   columns: Range }} layout
     */
    function drawNumbers(context, { weights, size }, { x0, y0, cell, unit, rows, columns }) {
      const { scale } = app.state;
      const share = shareOf(scale);
      context.font = `${Math.min(13 * unit, cell * 0.3)}px ${FONT}`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      for (let query = rows.first; query < rows.end; query++) {
        for (let key = columns.first; key < columns.end; key++) {
          const weight = weights[query * size + key] ?? 0;
          if (weight < 0.005) continue;
          context.fillStyle = textOn(share(weight), app.theme.name);
          const text = weight.toFixed(2).replace(/^0/, "");
          context.fillText(text, x0 + (key + 0.5) * cell, y0 + (query + 0.5) * cell);
        }
      }
    }

    /**
     * @param {CanvasRenderingContext2D} context
     * @param {Box} box
     * @param {Matrix} shown
     * @param {{ x0: number, y0: number, cell: number, rows: Range, columns: Range,
     *   palette: import("../theme.js").Palette }} layout
     */
    function drawNames(context, box, shown, { x0, y0, cell, rows, columns, palette }) {
      const every = Math.ceil(MIN_TEXT / cell);
      const size = Math.min(14 * box.unit, Math.max(9, cell * 0.6));
      context.textBaseline = "middle";
      for (const axis of /** @type {const} */ (["query", "key"])) {
        const { first, end } = axis === "query" ? rows : columns;
        const focused = [pointed?.[axis] ?? NaN, axis === "query" ? chosen : NaN];
        for (let place = first; place < end; place++) {
          const isFocus = focused.includes(place);
          const isCovered = !isFocus && focused.some((other) => Math.abs(other - place) < every);
          if (isCovered || (place % every && !isFocus)) continue;
          context.save();
          context.beginPath();
          if (axis === "query") {
            context.rect(0, gutter, gutter, box.height - gutter);
            context.clip();
            context.translate(gutter - 6, y0 + (place + 0.5) * cell);
          } else {
            context.rect(gutter, 0, box.width - gutter, gutter);
            context.clip();
            context.translate(x0 + (place + 0.5) * cell, gutter - 6);
            context.rotate(-Math.PI / 2);
          }
          context.font = `${isFocus ? "600 " : ""}${size}px ${FONT}`;
          context.textAlign = axis === "query" ? "right" : "left";
          context.fillStyle = isFocus ? palette[axis] : palette.text;
          context.fillText(shown.labels[place] ?? "", 0, 0, gutter - 10);
          context.restore();
        }
      }
    }
  },
};

/** @typedef {{ first: number, end: number }} Range rows or columns that can be seen */

/** @type {Record<string, [number, number]>} */
const STEPS = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

/**
 * @param {number} start
 * @param {number} length
 * @param {number} cell
 * @param {number} size
 * @returns {Range}
 */
function rangeOf(start, length, cell, size) {
  return {
    first: Math.max(0, Math.floor(start / cell)),
    end: Math.min(size, Math.ceil((start + length) / cell)),
  };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} colour
 * @param {{ x0: number, y0: number, cell: number, side: number, rows: Range, columns: Range }} layout
 */
function drawGaps(context, colour, { x0, y0, cell, side, rows, columns }) {
  context.fillStyle = colour;
  for (let row = rows.first; row <= rows.end; row++)
    context.fillRect(x0, y0 + row * cell - 0.5, side, 1);
  for (let column = columns.first; column <= columns.end; column++) {
    context.fillRect(x0 + column * cell - 0.5, y0, 1, side);
  }
}
