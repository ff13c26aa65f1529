/** Three heat maps that scroll and zoom together: of this text, of the other, and of the difference. */

import { drawBoundary } from "../../boundaries.js";
import { h } from "../../dom.js";
import { differenceColours, paint, paintMatrix, shareOf } from "../../scale.js";
import { signed } from "../../strip.js";
import { Viewport } from "../../viewport.js";
import { areasOf, isStacked, TITLES } from "./layout.js";

const MAX_CELL = 40;
const GAP_CELL = 9;
const MIN_TEXT = 10;
const MAX_GUTTER = 96;
const FONT = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";

/**
 * @typedef {import("./align.js").Comparison} Comparison
 * @typedef {import("../../viewport.js").Box} Box
 * @typedef {{ query: number, key: number }} Place
 * @typedef {import("./layout.js").Area} Area
 */

/** @type {Record<string, [number, number]>} */
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export class DifferenceMaps {
  /** @type {Comparison | null} */
  #drawn = null;
  #chosen = -1;
  /** @type {Place | null} */
  #pointed = null;
  #gutter = 40;
  #bitmaps = TITLES.map(() => document.createElement("canvas"));
  #theme;
  #viewport;

  /**
   * @param {import("../../theme.js").Theme} theme
   * @param {(row: number) => void} onPress
   */
  constructor(theme, onPress) {
    this.#theme = theme;
    this.#viewport = new Viewport({
      label:
        "Heat maps of this text, of the other, and of the difference. Arrow keys move from weight to weight.",
      size: (box) => this.#size(box),
      draw: (context, box) => this.#draw(context, box),
      point: (x, y, box) => this.#point(this.#placeAt(x, y, box)),
      press: () => {
        if (this.#pointed) onPress(this.#pointed.query);
      },
      key: (name) => this.#key(name),
    });
    this.element = this.#viewport.element;
  }

  /**
   * @param {Comparison} comparison
   * @param {number} chosen the row of the chosen token; -1 if it has none
   * @param {import("../../state.js").Scale} scale
   */
  show(comparison, chosen, scale) {
    const { rows, columns, first, second, difference } = comparison;
    const labels = [...rows.labels, ...columns.labels];
    const before = this.#drawn && [...this.#drawn.rows.labels, ...this.#drawn.columns.labels];
    if (labels.join() !== before?.join()) this.#pointed = null;
    this.#drawn = comparison;
    this.#chosen = chosen;
    const { name } = this.#theme;
    [first, second].forEach((weights, index) => {
      const canvas = this.#bitmaps[index];
      if (canvas) paintMatrix(canvas, weights, columns.size, scale, name);
    });
    const share = shareOf(scale);
    const ramp = differenceColours(name);
    const [, , canvas] = this.#bitmaps;
    if (canvas) {
      paint(
        canvas,
        difference,
        columns.size,
        ramp,
        (value) => (1 + Math.sign(value) * share(Math.abs(value))) / 2,
      );
    }
    const longest = Math.max(...labels.map((label) => label.length), 1);
    this.#gutter = Math.min(longest * 8 + 12, MAX_GUTTER) * this.#viewport.box.unit;
    this.#writeReadout();
    this.#viewport.resize();
  }

  /** @param {Box} box */
  #cell(box) {
    const [area] = areasOf(box, this.#gutter);
    if (!area) return 1;
    const { rows, columns } = this.#drawn ?? {};
    const fit = Math.min(
      area.width / Math.max(columns?.size ?? 1, 1),
      area.height / Math.max(rows?.size ?? 1, 1),
    );
    return Math.min(fit, MAX_CELL * box.unit) * Math.max(box.zoom, 1);
  }

  /** @param {Box} box */
  #size(box) {
    const [area] = areasOf(box, this.#gutter);
    const cell = this.#cell(box);
    const [width, height] = [this.#drawn?.columns.size ?? 0, this.#drawn?.rows.size ?? 0];
    return {
      width: box.width + Math.max(cell * width - (area?.width ?? 0), 0),
      height: box.height + Math.max(cell * height - (area?.height ?? 0), 0),
    };
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {Box} box
   * @returns {Place | null}
   */
  #placeAt(x, y, box) {
    const { rows, columns } = this.#drawn ?? {};
    const cell = this.#cell(box);
    for (const area of areasOf(box, this.#gutter)) {
      const isInside =
        x >= area.x && y >= area.y && x < area.x + area.width && y < area.y + area.height;
      if (!isInside) continue;
      const key = Math.floor((x - area.x + box.left) / cell);
      const query = Math.floor((y - area.y + box.top) / cell);
      const isFilled = key < (columns?.size ?? 0) && query < (rows?.size ?? 0);
      return isFilled ? { query, key } : null;
    }
    return null;
  }

  /** @param {string} name */
  #key(name) {
    const step = STEPS[name];
    if (!this.#drawn || !step) return false;
    const start = Math.max(this.#chosen, 0);
    const { rows, columns } = this.#drawn;
    const { query, key } = this.#pointed ?? { query: start, key: start };
    const within = (/** @type {number} */ place, /** @type {{ size: number }} */ { size }) =>
      Math.min(Math.max(place, 0), size - 1);
    this.#point({ query: within(query + step[0], rows), key: within(key + step[1], columns) });
    const { box } = this.#viewport;
    const [area] = areasOf(box, this.#gutter);
    const cell = this.#cell(box);
    if (area && this.#pointed) {
      const { query: row, key: column } = this.#pointed;
      this.#viewport.reveal({
        left: column * cell,
        top: row * cell,
        right: (column + 1) * cell + box.width - area.width,
        bottom: (row + 1) * cell + box.height - area.height,
      });
    }
    return true;
  }

  /** @param {Place | null} place */
  #point(place) {
    const before = this.#pointed;
    if (place?.query === before?.query && place?.key === before?.key) return;
    this.#pointed = place;
    this.#writeReadout();
    this.#viewport.draw();
  }

  #writeReadout() {
    const { readout } = this.#viewport;
    readout.textContent = "";
    const [drawn, place] = [this.#drawn, this.#pointed];
    if (!drawn || !place) return;
    const index = place.query * drawn.columns.size + place.key;
    const [first, second] = [drawn.first[index] ?? 0, drawn.second[index] ?? 0];
    readout.append(
      h("b", { class: "query" }, drawn.rows.labels[place.query] ?? ""),
      " looks at ",
      h("b", { class: "key" }, drawn.columns.labels[place.key] ?? ""),
      `: ${signed(first)} here, ${signed(second)} there`,
    );
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Box} box
   */
  #draw(context, box) {
    const drawn = this.#drawn;
    if (!drawn?.first.length) return;
    const palette = this.#theme.palette();
    const cell = this.#cell(box);
    const [numRows, numColumns] = [drawn.rows.size, drawn.columns.size];
    const [width, height] = [cell * numColumns, cell * numRows];
    areasOf(box, this.#gutter).forEach((area, index) => {
      const bitmap = this.#bitmaps[index];
      if (!bitmap) return;
      const [x0, y0] = [area.x - box.left, area.y - box.top];
      context.save();
      context.beginPath();
      context.rect(area.x, area.y, area.width, area.height);
      context.clip();
      context.imageSmoothingEnabled = cell < 1;
      context.drawImage(bitmap, x0, y0, width, height);
      context.fillStyle = palette.surface;
      for (let line = 0; cell >= GAP_CELL && line <= numRows; line++) {
        context.fillRect(x0, y0 + line * cell - 0.5, width, 1);
      }
      for (let line = 0; cell >= GAP_CELL && line <= numColumns; line++) {
        context.fillRect(x0 + line * cell - 0.5, y0, 1, height);
      }
      for (const place of drawn.rows.boundaries) {
        const y = y0 + place * cell;
        drawBoundary(context, palette, box.unit, [x0, y], [x0 + width, y]);
      }
      for (const place of drawn.columns.boundaries) {
        const x = x0 + place * cell;
        drawBoundary(context, palette, box.unit, [x, y0], [x, y0 + height]);
      }
      context.lineWidth = cell < GAP_CELL ? 1 : 2;
      context.strokeStyle = palette.query;
      if (this.#chosen >= 0) {
        context.strokeRect(x0 + 1, y0 + this.#chosen * cell, width - 2, cell);
      }
      context.strokeStyle = palette.text;
      const place = this.#pointed;
      if (place) context.strokeRect(x0 + place.key * cell, y0 + place.query * cell, cell, cell);
      context.restore();
      this.#drawNames(context, box, area, index);
    });
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Box} box
   * @param {Area} area
   * @param {number} index which of the three maps
   */
  #drawNames(context, box, area, index) {
    const drawn = this.#drawn;
    const palette = this.#theme.palette();
    const cell = this.#cell(box);
    const gutter = this.#gutter;
    const isNarrow = isStacked(box);
    const size = Math.min(13 * box.unit, Math.max(9, cell * 0.7));
    const every = Math.ceil(MIN_TEXT / cell);
    context.textBaseline = "middle";
    context.fillStyle = palette.muted;
    context.font = `600 ${12 * box.unit}px ${FONT}`;
    context.textAlign = "left";
    const titleY = isNarrow ? area.y - 9 * box.unit : 9 * box.unit;
    context.fillText(TITLES[index] ?? "", isNarrow && index === 0 ? 0 : area.x, titleY);
    const hasRows = isNarrow || index === 0;
    const hasColumns = !isNarrow || index === 0;
    if (hasRows) {
      drawn?.rows.labels.forEach((label, place) => {
        const y = area.y - box.top + (place + 0.5) * cell;
        if (place % every || y <= area.y || y >= area.y + area.height) return;
        const isFocus = place === this.#pointed?.query || place === this.#chosen;
        context.font = `${isFocus ? "600 " : ""}${size}px ${FONT}`;
        context.fillStyle = isFocus ? palette.query : palette.text;
        context.textAlign = "right";
        context.fillText(label, area.x - 5, y, gutter - 8);
      });
    }
    if (!hasColumns) return;
    drawn?.columns.labels.forEach((label, place) => {
      const x = area.x - box.left + (place + 0.5) * cell;
      if (place % every || x <= area.x || x >= area.x + area.width) return;
      const isKey = place === this.#pointed?.key;
      context.save();
      context.translate(x, area.y - (isNarrow ? 20 * box.unit : 5));
      context.rotate(-Math.PI / 2);
      context.fillStyle = isKey ? palette.key : palette.text;
      context.font = `${isKey ? "600 " : ""}${size}px ${FONT}`;
      context.textAlign = "left";
      context.fillText(label, 0, 0, gutter - 8);
      context.restore();
    });
  }
}
