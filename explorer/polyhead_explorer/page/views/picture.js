/** The chosen token's weights on the picture: a colour for each patch. */

import { changes } from "../changes.js";
import { h } from "../dom.js";
import { matrixOf, placeOf, weightAt } from "../head.js";
import { toCanvas } from "../pictures.js";
import { colourOf, format, shareOf } from "../scale.js";
import { Viewport } from "../viewport.js";

const MARGIN = 4;
const [LEAST_ALPHA, MORE_ALPHA] = [0.25, 0.6];
const NUM_NAMED = 2;

/**
 * @typedef {import("../head.js").Matrix} Matrix
 * @typedef {import("../viewport.js").Box} Box
 * @typedef {import("../subject.js").Grid} Grid
 */

/** @type {import("../app.js").View} */
export const picture = {
  id: "picture",
  title: "On the picture",
  isFor: ({ reading }) => Boolean(reading?.value?.picture),
  mount(root, app) {
    /** @type {{ matrix: Matrix, grid: Grid, image: HTMLCanvasElement | null } | null} */
    let drawn = null;
    let chosen = -1;
    let pointed = -1;
    let chosenToken = -1;

    const view = new Viewport({
      label: "The picture. Arrow keys choose a patch; Home chooses the first token.",
      size(box) {
        const { side, height } = sizeOf(box);
        return { width: side + 2 * MARGIN, height: height + 2 * MARGIN };
      },
      draw(context, box) {
        if (drawn) draw(context, box);
      },
      point(x, y, box) {
        const next = x < 0 || !drawn ? -1 : patchAt(x, y, box);
        if (next === pointed) return;
        pointed = next;
        writeReadout();
        view.draw();
      },
      press() {
        if (pointed >= 0) app.set({ token: pointed });
      },
      key(name) {
        if (!drawn) return false;
        const { rows, columns, first } = drawn.grid;
        if (name === "Home") {
          app.set({ token: 0 });
          return true;
        }
        const step = { ArrowUp: -columns, ArrowDown: columns, ArrowLeft: -1, ArrowRight: 1 }[name];
        if (!step) return false;
        const patch = chosenToken - first;
        const next = patch < 0 ? 0 : patch + step;
        const isRow = Math.abs(step) === 1;
        const isInside =
          next >= 0 &&
          next < rows * columns &&
          (patch < 0 || !isRow || Math.floor(next / columns) === Math.floor(patch / columns));
        if (isInside) app.set({ token: first + next });
        return true;
      },
    });
    root.append(view.element);
    const hasChanged = changes();
    /** @type {import("../pictures.js").Pixels | null} */
    let pixels = null;
    /** @type {HTMLCanvasElement | null} */
    let image = null;

    return (state, data) => {
      const loaded = data.head?.value;
      const grid = loaded?.reading.picture;
      const newPixels = data.picture?.value ?? null;
      if (!loaded || !grid) return;
      if (!hasChanged(loaded, newPixels, data.token, state.scale, app.theme.name)) return;
      if (newPixels !== pixels) image = newPixels && toCanvas(newPixels);
      pixels = newPixels;
      const matrix = matrixOf(loaded);
      drawn = { matrix, grid, image };
      chosenToken = data.token;
      chosen = placeOf(matrix.rows, data.token);
      view.resize();
      writeReadout();
    };

    /** @param {Box} box */
    function sizeOf(box) {
      const { columns = 1, rows = 1 } = drawn?.grid ?? {};
      const ratio = drawn?.image ? drawn.image.height / drawn.image.width : rows / columns;
      const side = Math.min(box.width - 2 * MARGIN, (box.height - 2 * MARGIN) / ratio);
      const zoom = Math.max(box.zoom, 1);
      return { side: Math.max(side, 1) * zoom, height: Math.max(side, 1) * ratio * zoom };
    }

    /** @param {Box} box */
    function placeIn(box) {
      const { side, height } = sizeOf(box);
      const left = Math.max((box.width - side) / 2, MARGIN) - box.left;
      const top = Math.max((box.height - height) / 2, MARGIN) - box.top;
      return { x0: left, y0: top, side, height };
    }

    /**
     * @param {number} x
     * @param {number} y
     * @param {Box} box
     */
    function patchAt(x, y, box) {
      if (!drawn) return -1;
      const { rows, columns, first } = drawn.grid;
      const { x0, y0, side, height } = placeIn(box);
      const column = Math.floor(((x - x0) / side) * columns);
      const row = Math.floor(((y - y0) / height) * rows);
      const isInside = column >= 0 && column < columns && row >= 0 && row < rows;
      return isInside ? first + row * columns + column : -1;
    }

    /** Return the weight of each patch, 0 if it is hidden; and the largest weight. */
    function weightsOfPatches() {
      if (!drawn || chosen < 0) return { weights: [], largest: 0 };
      const { matrix, grid } = drawn;
      const weights = Array.from({ length: grid.rows * grid.columns }, () => 0);
      matrix.columns.tokens.forEach((token, place) => {
        if (token >= grid.first) weights[token - grid.first] = weightAt(matrix, chosen, place);
      });
      return { weights, largest: weights.reduce((a, b) => Math.max(a, b), 0) };
    }

    function writeReadout() {
      view.readout.textContent = "";
      if (!drawn) return;
      const { matrix, grid } = drawn;
      const name = (/** @type {number} */ token) =>
        token < grid.first
          ? (matrix.rows.labels[placeOf(matrix.rows, token)] ?? "")
          : `patch ${Math.floor((token - grid.first) / grid.columns)},${(token - grid.first) % grid.columns}`;
      if (chosen < 0) {
        view.readout.append("The chosen token is hidden.");
        return;
      }
      const { weights, largest } = weightsOfPatches();
      const from = h("b", { class: "query" }, name(chosenToken));
      if (pointed >= 0) {
        const to = h("b", { class: "key" }, name(pointed));
        view.readout.append(
          from,
          " looks at ",
          to,
          `: ${format(weights[pointed - grid.first] ?? 0)}`,
        );
        return;
      }
      const { tokens, labels } = matrix.columns;
      const special = tokens
        .flatMap((token, place) => (token < grid.first ? place : []))
        .slice(0, NUM_NAMED)
        .map((place) => `${labels[place]} ${format(weightAt(matrix, chosen, place))}`);
      const sum = weights.reduce((a, b) => a + b, 0);
      const rest = [`patches ${format(sum)}`, ...special].join(", ");
      view.readout.append(from, `: ${rest}; colours to ${format(largest)}`);
    }

    /**
     * @param {CanvasRenderingContext2D} context
     * @param {Box} box
     */
    function draw(context, box) {
      if (!drawn) return;
      const { grid } = drawn;
      const palette = app.theme.palette();
      const { x0, y0, side, height } = placeIn(box);
      const [w, h] = [side / grid.columns, height / grid.rows];
      context.imageSmoothingEnabled = true;
      if (drawn.image) context.drawImage(drawn.image, x0, y0, side, height);
      const { weights, largest } = weightsOfPatches();
      const share = shareOf(app.state.scale);
      weights.forEach((weight, patch) => {
        const strength = largest > 0 ? share(weight / largest) : 0;
        context.globalAlpha = LEAST_ALPHA + MORE_ALPHA * strength;
        context.fillStyle = colourOf(strength, app.theme.name);
        const [row, column] = [Math.floor(patch / grid.columns), patch % grid.columns];
        context.fillRect(x0 + column * w, y0 + row * h, w, h);
      });
      context.globalAlpha = 1;
      outline(chosenToken, palette.query, 3);
      outline(pointed, palette.text, 2);

      /**
       * @param {number} token
       * @param {string} colour
       * @param {number} width
       */
      function outline(token, colour, width) {
        const patch = token - grid.first;
        if (patch < 0) return;
        const [row, column] = [Math.floor(patch / grid.columns), patch % grid.columns];
        context.strokeStyle = colour;
        context.lineWidth = width;
        context.strokeRect(x0 + column * w, y0 + row * h, w, h);
      }
    }
  },
};
