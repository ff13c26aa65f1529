/** A head as lines from tokens to the tokens that they attend to. A thicker line is more weight. */

import { drawBoundary } from "../boundaries.js";
import { changes } from "../changes.js";
import { h, isolated } from "../dom.js";
import { chosenPlaces, largest, matrixOf } from "../head.js";
import { format, shareOf } from "../scale.js";
import { Viewport } from "../viewport.js";
import { inSteps, linksBetween, linksOf, strongest, weightBetween } from "./links.js";

const [FIT_ROW, MAX_ROW] = [18, 36];
const PADDING = 8;
const MIN_TEXT_ROW = 9;
const [MAX_FOCUSED, MAX_OTHERS] = [64, 600];
const MAX_WIDTH = 9;
const NUM_NAMED = 3;

/**
 * @typedef {import("../head.js").Matrix} Matrix
 * @typedef {import("../viewport.js").Box} Box
 * @typedef {import("./links.js").Focus} Focus
 */

/** @type {import("../app.js").View} */
export const lines = {
  id: "lines",
  title: "Lines",
  mount(root, app) {
    /** @type {Matrix | null} */
    let matrix = null;
    let chosen = -1;
    let share = shareOf(app.state.scale);
    /** @type {Focus | null} */
    let pointed = null;

    const view = new Viewport({
      label: "Lines from tokens to the tokens that they look at. Arrow keys choose a token.",
      size: (box) => ({ width: box.width, height: rowOf(box) * numLines() + 2 * PADDING }),
      draw(context, box) {
        if (!matrix) return;
        drawLines(context, box, matrix, focusOf());
      },
      point(x, y, box) {
        const place = Math.floor((y + box.top - PADDING) / rowOf(box));
        const side = x < box.width / 2 ? "query" : "key";
        const { size = 0 } = sideOf(side) ?? {};
        const isInside = x >= 0 && place >= 0 && place < size;
        /** @type {Focus | null} */
        const next = isInside ? { side, place } : null;
        if (next?.side === pointed?.side && next?.place === pointed?.place) return;
        pointed = next;
        writeReadout();
        view.draw();
      },
      press() {
        const token = pointed && sideOf(pointed.side)?.tokens[pointed.place];
        if (token === null || token === undefined) return;
        const isOther = matrix?.isCross && pointed?.side === "key";
        app.set(isOther ? { pairKey: token } : { token });
      },
      key(name) {
        const step = { ArrowUp: -1, ArrowDown: 1 }[name];
        if (!step || !matrix) return false;
        const place = Math.min(Math.max(chosen + step, 0), matrix.rows.size - 1);
        app.set({ token: matrix.rows.tokens[place] ?? 0 });
        view.reveal({
          top: place * rowOf(view.box),
          bottom: (place + 1) * rowOf(view.box) + PADDING,
        });
        return true;
      },
    });
    root.append(view.element);

    /** @param {"query" | "key"} side */
    function sideOf(side) {
      return side === "query" ? matrix?.rows : matrix?.columns;
    }

    function numLines() {
      return matrix ? Math.max(matrix.rows.size, matrix.columns.size) : 0;
    }

    /** @returns {Focus | null} */
    function focusOf() {
      return pointed ?? (chosen < 0 ? null : { side: "query", place: chosen });
    }

    function writeReadout() {
      view.readout.textContent = "";
      const focus = focusOf();
      if (!matrix || !focus) return;
      const { side, place } = focus;
      const weights = largest(matrix, place, side === "query" ? "row" : "column", NUM_NAMED);
      const rest = weights
        .filter(({ weight }) => weight > 0)
        .map(({ label, weight }) => `${isolated(label)} ${format(weight)}`)
        .join(", ");
      const name = h("b", { class: side }, sideOf(side)?.labels[place] ?? "");
      view.readout.append(
        ...(side === "query" ? [name, " looks at "] : ["Tokens that look at ", name, ": "]),
        rest,
      );
    }
    const hasChanged = changes();

    return (state, data) => {
      const loaded = data.head?.value;
      if (!hasChanged(loaded, data.token, state.scale, app.theme.name)) return;
      const before = numLines();
      matrix = loaded ? matrixOf(loaded) : null;
      const isResized = numLines() !== before;
      chosen = matrix ? chosenPlaces(matrix, data).row : -1;
      share = shareOf(state.scale);
      if (pointed && pointed.place >= (sideOf(pointed.side)?.size ?? 0)) pointed = null;
      if (isResized) {
        pointed = null;
        view.resize();
      }
      writeReadout();
      view.draw();
    };

    /** @param {Box} box */
    function rowOf(box) {
      const fit = (box.height - 2 * PADDING) / Math.max(numLines(), 1);
      const { unit, zoom } = box;
      const first = Math.min(Math.max(fit, FIT_ROW * unit), MAX_ROW * unit);
      return Math.max(first * zoom, Math.min(fit, first));
    }

    /**
     * @param {CanvasRenderingContext2D} context
     * @param {Box} box
     * @param {Matrix} drawn
     * @param {Focus | null} focus
     */
    function drawLines(context, box, drawn, focus) {
      const palette = app.theme.palette();
      const row = rowOf(box);
      const gutter = Math.min(box.width * 0.32, 180 * box.unit);
      const [left, right] = [gutter, box.width - gutter];
      const yOf = (/** @type {number} */ place) => PADDING + (place + 0.5) * row - box.top;

      const gradient = context.createLinearGradient(left, 0, right, 0);
      gradient.addColorStop(0, palette.query);
      gradient.addColorStop(1, palette.key);
      context.strokeStyle = gradient;
      context.lineCap = "round";
      const bend = (right - left) * 0.45;
      const [rows, columns] = [drawn.rows, drawn.columns].map(({ size }) =>
        rangeOf(box, row, size),
      );
      const visible = rows && columns ? linksBetween(drawn, rows, columns, share) : [];
      const others = strongest(visible, MAX_OTHERS);
      const layers = [{ links: others, alpha: focus ? 0.15 : 0.55 }];
      if (focus) {
        layers.push({ links: strongest(linksOf(drawn, focus, share), MAX_FOCUSED), alpha: 1 });
      }
      for (const { links, alpha } of layers) {
        // each step of strength is one path, because thousands of strokes take seconds
        for (const [step, paths] of inSteps(links)) {
          context.globalAlpha = alpha * (0.2 + 0.8 * step);
          context.lineWidth = Math.max(0.7, Math.min(row * 0.6, MAX_WIDTH) * step);
          context.beginPath();
          for (const { query, key } of paths) {
            const [from, to] = [yOf(query), yOf(key)];
            context.moveTo(left + 6, from);
            context.bezierCurveTo(left + bend, from, right - bend, to, right - 6, to);
          }
          context.stroke();
        }
      }
      context.globalAlpha = 1;
      drawLabels(context, box, drawn, focus, { row, left, right, yOf, palette });
    }

    /**
     * @param {CanvasRenderingContext2D} context
     * @param {Box} box
     * @param {Matrix} drawn
     * @param {Focus | null} focus
     * @param {{ row: number, left: number, right: number, yOf: (place: number) => number,
     *   palette: import("../theme.js").Palette }} layout
     */
    function drawLabels(context, box, drawn, focus, { row, left, right, yOf, palette }) {
      const size = Math.min(15 * box.unit, Math.max(9, row * 0.62));
      const every = Math.ceil(MIN_TEXT_ROW / row);
      context.textBaseline = "middle";
      for (const side of /** @type {const} */ (["query", "key"])) {
        const { labels, size: length, boundaries } = side === "query" ? drawn.rows : drawn.columns;
        const { first, end } = rangeOf(box, row, length);
        for (const place of boundaries) {
          const [y, x] = [yOf(place - 0.5), side === "query" ? 0 : right];
          drawBoundary(context, palette, box.unit, [x, y], [x + left, y]);
        }
        for (let place = first; place < end; place++) {
          const label = labels[place] ?? "";
          const isFocus = focus?.side === side && focus.place === place;
          const weight = weightBetween(drawn, focus, side, place);
          const isCovered = focus?.side === side && Math.abs(focus.place - place) < every;
          if (!isFocus && (place % every || isCovered)) continue;
          context.font = `${isFocus ? "600 " : ""}${size}px ${FONT}`;
          context.textAlign = side === "query" ? "right" : "left";
          const strength = weight === null ? 0 : share(weight);
          context.fillStyle = isFocus
            ? palette[side]
            : strength > 0.1 || !focus || focus.side === side
              ? palette.text
              : palette.muted;
          const x = side === "query" ? left - 4 : right + 4;
          const text =
            weight !== null && strength > 0.1 && row >= MIN_TEXT_ROW
              ? withWeight(label, weight, side)
              : label;
          context.fillText(text, x, yOf(place), left - 8);
        }
      }
    }
  },
};

const FONT = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";

/**
 * @param {string} label
 * @param {number} weight
 * @param {"query" | "key"} side
 */
function withWeight(label, weight, side) {
  const name = isolated(label);
  return side === "key" ? `${name}  ${format(weight)}` : `${format(weight)}  ${name}`;
}

/**
 * Return the visible rows.
 * @param {Box} box
 * @param {number} row
 * @param {number} size
 */
function rangeOf(box, row, size) {
  return {
    first: Math.max(0, Math.floor((box.top - PADDING) / row)),
    end: Math.min(size, Math.ceil((box.top + box.height - PADDING) / row)),
  };
}
