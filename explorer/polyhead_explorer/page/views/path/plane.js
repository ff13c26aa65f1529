/** The drawing of a plane: the path of the followed token, and the places of the others. */

import { Viewport } from "../../viewport.js";
import { drawDiagonal, drawLabel, drawPath } from "./drawing.js";

const [MARGIN, RIGHT] = [34, 60];
const FONT = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";
const MAX_LABELS = 80;

/**
 * @typedef {import("../../viewport.js").Box} Box
 * @typedef {import("../../source.js").Path} Path
 * @typedef {import("./drawing.js").Point} Point
 * @typedef {import("./drawing.js").Area} Area
 */

/**
 * @typedef {object} Drawing
 * @property {Path} path
 * @property {number} place index of the followed token in the path's tokens
 * @property {string[]} labels of the path's tokens; a token with "" is not drawn
 * @property {[string, string]} axes
 * @property {number} step the last step of the drawn path
 * @property {boolean} isAnchored whether the axes are cosines to anchors
 * @property {boolean} isClose whether the path fills the plane, and other tokens may be outside
 */

export class PathPlane {
  /** @type {Drawing | null} */
  #drawn = null;
  #theme;
  #viewport;
  /** The place for a text on the drawing. */
  readout;

  /**
   * @param {import("../../theme.js").Theme} theme
   * @param {(step: number) => void} onStep a step forward, 1, or back, -1
   */
  constructor(theme, onStep) {
    this.#theme = theme;
    this.#viewport = new Viewport({
      label: "A path in a plane. The left and right arrow keys go from layer to layer.",
      size: ({ width, height, zoom }) => ({
        width: width * Math.max(zoom, 1),
        height: height * Math.max(zoom, 1),
      }),
      draw: (context, box) => this.#draw(context, box),
      point: () => {},
      press: () => {},
      key(name) {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[name];
        if (step) onStep(step);
        return Boolean(step);
      },
    });
    this.element = this.#viewport.element;
    this.readout = this.#viewport.readout;
  }

  /** @param {Drawing} drawing */
  show(drawing) {
    this.#drawn = drawing;
    this.#viewport.draw();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Box} box
   */
  #draw(context, box) {
    const drawn = this.#drawn;
    if (!drawn) return;
    const palette = this.#theme.palette();
    const { path, place, labels, step, isAnchored, isClose } = drawn;
    const { toScreen, scale } = projection(path, isClose ? place : -1, box);
    const [numSteps = 0, numTokens = 0] = path.points.shape;
    const at = (/** @type {number} */ when, /** @type {number} */ token) =>
      toScreen(pointOf(path.points, when * numTokens + token));

    this.#drawAxes(context, box, drawn, { toScreen, scale });
    if (isAnchored) drawDiagonal(context, toScreen, palette.line);
    const own = Array.from({ length: numSteps }, (_, when) => at(when, place));
    const [numOther = 0] = path.otherPath.shape;
    const other = Array.from({ length: numOther }, (_, when) =>
      toScreen(pointOf(path.otherPath, when)),
    );
    const unit = box.unit;
    const second = this.#theme.read("--second");
    if (other.length) drawPath(context, other, step, second, unit);
    drawPath(context, own, step, palette.query, unit);

    /** @type {Area[]} */
    const taken = [];
    const size = 13 * unit;
    context.textBaseline = "middle";
    const end = own[step];
    if (end)
      drawLabel(context, labels[place] ?? "", end, {
        size,
        colour: palette.query,
        isBold: true,
        taken,
      });
    const otherEnd = other[step];
    if (otherEnd) {
      const text = `${labels[place]} (other text)`;
      drawLabel(context, text, otherEnd, { size, colour: second, isBold: true, taken });
    }
    own.forEach((point, when) => {
      if (when !== step) {
        drawLabel(context, String(when), point, {
          size: 10 * unit,
          colour: palette.muted,
          isBold: false,
          taken,
        });
      }
    });
    for (let token = 0; token < numTokens; token++) {
      const text = labels[token];
      if (token === place || !text) continue;
      const point = at(step, token);
      context.beginPath();
      context.arc(point.x, point.y, 2.5 * unit, 0, 2 * Math.PI);
      context.fillStyle = palette.key;
      context.fill();
      if (token < MAX_LABELS) {
        drawLabel(context, text, point, {
          size: 12 * unit,
          colour: palette.text,
          isBold: false,
          taken,
        });
      }
    }
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Box} box
   * @param {Drawing} drawn
   * @param {{ toScreen: (point: Point) => Point, scale: number }} projected
   */
  #drawAxes(context, box, { axes }, { toScreen, scale }) {
    const palette = this.#theme.palette();
    const every = niceStep((80 * box.unit) / scale);
    const origin = toScreen({ x: 0, y: 0 });
    context.font = `${10 * box.unit}px ${FONT}`;
    context.strokeStyle = palette.line;
    context.lineWidth = 1;
    const digits = every < 0.1 ? 2 : 1;
    const range = (/** @type {number} */ from, /** @type {number} */ to) => {
      const first = Math.ceil(from / every);
      const count = Math.max(Math.floor(to / every) - first + 1, 0);
      return Array.from({ length: Math.min(count, 200) }, (_, index) => (first + index) * every);
    };
    context.textAlign = "center";
    context.textBaseline = "bottom";
    for (const x of range(-origin.x / scale, (box.width - origin.x) / scale)) {
      const at = origin.x + x * scale;
      if (at < MARGIN) continue;
      context.beginPath();
      context.moveTo(at, 0);
      context.lineTo(at, box.height - MARGIN);
      context.stroke();
      context.fillStyle = palette.muted;
      context.fillText(x.toFixed(digits).replace("-", "−"), at, box.height - 18 * box.unit);
    }
    context.textAlign = "left";
    context.textBaseline = "middle";
    for (const y of range((origin.y - box.height) / scale, origin.y / scale)) {
      const at = origin.y - y * scale;
      if (at > box.height - MARGIN) continue;
      context.beginPath();
      context.moveTo(MARGIN, at);
      context.lineTo(box.width, at);
      context.stroke();
      context.fillStyle = palette.muted;
      context.fillText(y.toFixed(digits).replace("-", "−"), 2, at);
    }
    context.font = `600 ${12 * box.unit}px ${FONT}`;
    context.fillStyle = palette.muted;
    context.textBaseline = "bottom";
    context.textAlign = "right";
    context.fillText(`${axes[0]} →`, box.width - 4, box.height - 1);
    context.textAlign = "left";
    context.textBaseline = "top";
    context.fillText(`↑ ${axes[1]}`, 2, 1);
  }
}

/**
 * @param {import("../../source.js").Tensor} tensor (..., 2)
 * @param {number} index
 * @returns {Point}
 */
function pointOf({ data }, index) {
  return { x: data[2 * index] ?? 0, y: data[2 * index + 1] ?? 0 };
}

/**
 * Fit all points into the content, with one scale for both axes.
 * @param {Path} path
 * @param {number} only index of the token that must fit; -1 means all tokens
 * @param {Box} box
 */
function projection({ points, otherPath }, only, box) {
  const [low, high] = [
    { x: Infinity, y: Infinity },
    { x: -Infinity, y: -Infinity },
  ];
  for (const tensor of [points, otherPath]) {
    const every = tensor === points ? (points.shape[1] ?? 1) : 1;
    for (let index = 0; index < tensor.data.length / 2; index++) {
      if (only >= 0 && every > 1 && index % every !== only) continue;
      const { x, y } = pointOf(tensor, index);
      low.x = Math.min(low.x, x);
      low.y = Math.min(low.y, y);
      high.x = Math.max(high.x, x);
      high.y = Math.max(high.y, y);
    }
  }
  const zoom = Math.max(box.zoom, 1);
  const [width, height] = [box.width * zoom, box.height * zoom];
  const margin = MARGIN * box.unit;
  const right = RIGHT * box.unit;
  const scale = Math.min(
    (width - margin - right) / (high.x - low.x || 1),
    (height - 2 * margin) / (high.y - low.y || 1),
  );
  const x0 = (width + margin - right - (high.x + low.x) * scale) / 2 - box.left;
  const y0 = (height + (high.y + low.y) * scale) / 2 - box.top - margin * 0.2;
  const toScreen = (/** @type {Point} */ { x, y }) => ({ x: x0 + x * scale, y: y0 - y * scale });
  return { toScreen, scale };
}

/** @param {number} least */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  const factor = [1, 2, 5, 10].find((step) => step * power >= least) ?? 10;
  return factor * power;
}
