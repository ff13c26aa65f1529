/** The shown picture with its caption, as PNG and as SVG. */

import { viewportIn } from "../viewport.js";
import { SvgContext } from "./svg.js";

const FONT = "system-ui, sans-serif";
const [FOOT, TEXT, MARGIN] = [30, 12, 12];
const MIN_RATIO = 2;

/**
 * @typedef {object} Picture
 * @property {number} width in CSS pixels
 * @property {number} height
 * @property {(context: CanvasRenderingContext2D) => void} draw
 */

/**
 * Return the picture that a part of the page shows; null if it shows none.
 * @param {Element} root
 * @param {string} caption
 * @param {import("../theme.js").Palette} palette
 * @returns {Picture | null}
 */
export function pictureOf(root, caption, palette) {
  const viewport = viewportIn(root);
  if (!viewport) return null;
  const { width, height, unit } = viewport.box;
  const foot = FOOT * unit;
  return {
    width,
    height: height + foot,
    draw(context) {
      context.fillStyle = palette.surface;
      context.fillRect(0, 0, width, height + foot);
      context.save();
      context.beginPath();
      context.rect(0, 0, width, height);
      context.clip();
      viewport.drawOn(context);
      context.restore();
      context.fillStyle = palette.muted;
      context.font = `${TEXT * unit}px ${FONT}`;
      context.textAlign = "left";
      context.textBaseline = "middle";
      const line = fitted(context, caption, width - 2 * MARGIN);
      context.fillText(line, MARGIN, height + foot / 2);
    },
  };
}

/**
 * @param {Picture} picture
 * @returns {Promise<Blob | null>}
 */
export function toPng({ width, height, draw }) {
  const ratio = Math.max(MIN_RATIO, window.devicePixelRatio || 1);
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  if (!context) return Promise.resolve(null);
  context.scale(ratio, ratio);
  draw(context);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** @param {Picture} picture */
export function toSvg({ width, height, draw }) {
  const context = new SvgContext(width, height);
  draw(/** @type {CanvasRenderingContext2D} */ (/** @type {unknown} */ (context)));
  return new Blob([context.toString()], { type: "image/svg+xml" });
}

/**
 * Cut a text so that it fits.
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} width
 */
function fitted(context, text, width) {
  const characters = [...text.slice(0, 400)];
  let line = text.length > 400 ? `${characters.join("")}…` : text;
  while (characters.length && context.measureText(line).width > width) {
    characters.pop();
    line = `${characters.join("")}…`;
  }
  return line;
}
