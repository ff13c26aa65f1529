/** A head as a heat map: a row for each token, a column for each token that it attends to. */

import { drawBoundary } from "../boundaries.js";
import { changes } from "../changes.js";
import { h } from "../dom.js";
import { chosenPlaces, matrixOf, weightAt } from "../head.js";
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
    let chosenKey = -1;
    /** The space for names: of rows on the left, of columns at the top. */
    let gutter = { left: 40, top: 40 };
    const bitmap = document.createElement("canvas");

    const view = new Viewport({
      label: "Heat map. Arrow keys move from weight to weight.",
      size(box) {
        const cell = cellOf(box);
        return {
          width: gutter.left + cell * (matrix?.columns.size ?? 0) + 2,
          height: gutter.top + cell * (matrix?.rows.size ?? 0) + 2,
        };
      },
      draw(context, box) {
        if (matrix) drawMap(context, box, matrix);
      },
      point(x, y, box) {
        if (!matrix) return;
        const cell = cellOf(box);
        const key = Math.floor((x + box.left - gutter.left) / cell);
        const query = Math.floor((y + box.top - gutter.top) / cell);
        const isRight = x >= gutter.left && key < matrix.columns.size;
        const isBelow = y >= gutter.top && query < matrix.rows.size;
        show(isRight && isBelow ? { query, key } : null);
      },
      press() {
        if (!pointed || !matrix) return;
        const token = matrix.rows.tokens[pointed.query] ?? 0;
        const pairKey = matrix.columns.tokens[pointed.key] ?? 0;
        app.set(matrix.isCross ? { token, pairKey } : { token });
      },
      key(name) {
        const step = STEPS[name];
        if (!matrix || !step) return false;
        const from = pointed ?? { query: Math.max(chosen, 0), key: Math.max(chosenKey, 0) };
        const query = Math.min(Math.max(from.query + step[0], 0), matrix.rows.size - 1);
        const key = Math.min(Math.max(from.key + step[1], 0), matrix.columns.size - 1);
        show({ query, key });
        return true;
      },
    });
    root.append(view.element);
    const hasChanged = changes();

    return (state, data) => {
      const loaded = data.head?.value;
      const theme = app.theme.name;
      if (!loaded || !hasChanged(loaded, data.token, data.partner, state.scale, theme)) return;
      const before = matrix && namesOf(matrix);
      matrix = matrixOf(loaded);
      ({ row: chosen, column: chosenKey } = chosenPlaces(matrix, data));
      paintMatrix(bitmap, matrix.weights, matrix.columns.size, state.scale, theme);
      if (namesOf(matrix) !== before) {
        pointed = null;
        gutter = { left: gutterOf(matrix.rows), top: gutterOf(matrix.columns) };
        view.resize();
      }
      writeReadout();
      view.draw();
    };

    /** @param {Place | null} place */
    function show(place) {
      if (place?.query === pointed?.query && place?.key === pointed?.key) return;
      pointed = place;
      writeReadout();
      view.draw();
    }

    function writeReadout() {
      view.readout.textContent = "";
      if (!matrix || !pointed) return;
      const weight = weightAt(matrix, pointed.query, pointed.key);
      const from = matrix.rows.labels[pointed.query];
      const to = matrix.columns.labels[pointed.key];
      view.readout.append(
        h("b", { class: "query" }, from ?? ""),
        " looks at ",
        h("b", { class: "key" }, to ?? ""),
        `: ${format(weight)}`,
      );
    }

    /** @param {import("../head.js").Side} side */
    function gutterOf({ labels }) {
      const longest = Math.max(...labels.map((label) => label.length), 1);
      return Math.min(longest * 8 + 16, MAX_GUTTER) * view.box.unit;
    }

    /** @param {Box} box */
    function cellOf(box) {
      const { rows, columns } = matrix ?? {};
      const fit = Math.min(
        (box.width - gutter.left - 2) / Math.max(columns?.size ?? 1, 1),
        (box.height - gutter.top - 2) / Math.max(rows?.size ?? 1, 1),
      );
      return Math.min(fit, MAX_CELL * box.unit) * Math.max(box.zoom, 1);
    }

    /**
     * @param {CanvasRenderingContext2D} context
     * @param {Box} box
     * @param {Matrix} drawn
     */
    function drawMap(context, box, drawn) {
      const palette = app.theme.palette();
      const cell = cellOf(box);
      const [width, height] = [cell * drawn.columns.size, cell * drawn.rows.size];
      const [x0, y0] = [gutter.left - box.left, gutter.top - box.top];
      context.save();
      context.beginPath();
      context.rect(gutter.left, gutter.top, box.width - gutter.left, box.height - gutter.top);
      context.clip();
      context.imageSmoothingEnabled = cell < 1;
      context.drawImage(bitmap, x0, y0, width, height);
      const rows = rangeOf(box.top, box.height, cell, drawn.rows.size);
      const columns = rangeOf(box.left, box.width, cell, drawn.columns.size);
      if (cell >= GAP_CELL)
        drawGaps(context, palette.surface, { x0, y0, cell, width, height, rows, columns });
      if (cell >= NUMBER_CELL)
        drawNumbers(context, drawn, { x0, y0, cell, unit: box.unit, rows, columns });
      context.lineWidth = cell < GAP_CELL ? 1 : 2;
      if (chosen >= 0) {
        context.strokeStyle = palette.query;
        context.strokeRect(x0 + 1, y0 + chosen * cell, width - 2, cell);
      }
      if (pointed) {
        context.strokeStyle = palette.text;
        context.strokeRect(x0 + pointed.key * cell, y0 + pointed.query * cell, cell, cell);
      }
      context.restore();
      drawBoundaries(context, box, drawn, { x0, y0, cell, palette });
      drawNames(context, box, drawn, { x0, y0, cell, rows, columns, palette });
    }

    /**
     * Draw lines through the names and the weights where a second text begins.
     * @param {CanvasRenderingContext2D} context
     * @param {Box} box
     * @param {Matrix} drawn
     * @param {{ x0: number, y0: number, cell: number, palette: import("../theme.js").Palette }} layout
     */
    function drawBoundaries(context, box, { rows, columns }, { x0, y0, cell, palette }) {
      const right = Math.min(x0 + cell * columns.size, box.width);
      const bottom = Math.min(y0 + cell * rows.size, box.height);
      for (const place of rows.boundaries) {
        const y = y0 + place * cell;
        if (y > gutter.top) drawBoundary(context, palette, box.unit, [0, y], [right, y]);
      }
      for (const place of columns.boundaries) {
        const x = x0 + place * cell;
        if (x > gutter.left) drawBoundary(context, palette, box.unit, [x, 0], [x, bottom]);
      }
    }

    /**
     * @param {CanvasRenderingContext2D} context
     * @param {Matrix} drawn
     * @param {{ x0: number, y0: number, cell: number, unit: number, rows: Range,
     *   columns: Range }} layout
     */
    function drawNumbers(context, drawn, { x0, y0, cell, unit, rows, columns }) {
      const { scale } = app.state;
      const share = shareOf(scale);
      context.font = `${Math.min(13 * unit, cell * 0.3)}px ${FONT}`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      for (let query = rows.first; query < rows.end; query++) {
        for (let key = columns.first; key < columns.end; key++) {
          const weight = weightAt(drawn, query, key);
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
     * @param {Matrix} drawn
     * @param {{ x0: number, y0: number, cell: number, rows: Range, columns: Range,
     *   palette: import("../theme.js").Palette }} layout
     */
    function drawNames(context, box, drawn, { x0, y0, cell, rows, columns, palette }) {
      const every = Math.ceil(MIN_TEXT / cell);
      const size = Math.min(14 * box.unit, Math.max(9, cell * 0.6));
      context.textBaseline = "middle";
      for (const axis of /** @type {const} */ (["query", "key"])) {
        const isRows = axis === "query";
        const { first, end } = isRows ? rows : columns;
        const { labels } = isRows ? drawn.rows : drawn.columns;
        const chosenPlace = isRows ? chosen : drawn.isCross ? chosenKey : NaN;
        const focused = [pointed?.[axis] ?? NaN, chosenPlace];
        for (let place = first; place < end; place++) {
          const isFocus = focused.includes(place);
          const isCovered = !isFocus && focused.some((other) => Math.abs(other - place) < every);
          if (isCovered || (place % every && !isFocus)) continue;
          context.save();
          context.beginPath();
          if (isRows) {
            context.rect(0, gutter.top, gutter.left, box.height - gutter.top);
            context.clip();
            context.translate(gutter.left - 6, y0 + (place + 0.5) * cell);
          } else {
            context.rect(gutter.left, 0, box.width - gutter.left, gutter.top);
            context.clip();
            context.translate(x0 + (place + 0.5) * cell, gutter.top - 6);
            context.rotate(-Math.PI / 2);
          }
          context.font = `${isFocus ? "600 " : ""}${size}px ${FONT}`;
          context.textAlign = isRows ? "right" : "left";
          context.fillStyle = isFocus ? palette[axis] : palette.text;
          context.fillText(labels[place] ?? "", 0, 0, (isRows ? gutter.left : gutter.top) - 10);
          context.restore();
        }
      }
    }
  },
};

/** @param {Matrix} matrix */
function namesOf({ rows, columns }) {
  return JSON.stringify([rows.labels, columns.labels]);
}

/** @typedef {{ first: number, end: number }} Range visible rows or columns */

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
 * @param {{ x0: number, y0: number, cell: number, width: number, height: number, rows: Range,
 *   columns: Range }} layout
 */
function drawGaps(context, colour, { x0, y0, cell, width, height, rows, columns }) {
  context.fillStyle = colour;
  for (let row = rows.first; row <= rows.end; row++)
    context.fillRect(x0, y0 + row * cell - 0.5, width, 1);
  for (let column = columns.first; column <= columns.end; column++) {
    context.fillRect(x0 + column * cell - 0.5, y0, 1, height);
  }
}
