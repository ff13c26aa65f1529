/** Draws vectors as strips of bars, and numbers as bars to both sides of zero. */

import { h } from "./dom.js";

/** @typedef {import("./frames.js").Tensor} Tensor */

/**
 * Return one vector of several.
 * @param {Tensor | undefined} tensor (vectors, numbers)
 * @param {number} index
 */
export function vectorAt(tensor, index) {
  if (!tensor) return new Float32Array();
  const size = tensor.shape[1] ?? 0;
  return tensor.data.subarray(index * size, (index + 1) * size);
}

/**
 * Return the largest magnitude, the scale of bars.
 * @param {ArrayLike<number>} numbers
 */
export function largestOf(numbers) {
  let largest = 0;
  for (let index = 0; index < numbers.length; index++) {
    const size = Math.abs(numbers[index] ?? 0);
    if (Number.isFinite(size) && size > largest) largest = size;
  }
  return largest || 1;
}

const COMMON = 0.98;

/**
 * Return the magnitude that 98 % of the numbers do not exceed, the scale of strips of several
 * vectors. Many models have a few far larger numbers, beside which the others would vanish.
 * @param {Float32Array} numbers
 */
export function commonSize(numbers) {
  const sizes = numbers.map(Math.abs).sort();
  return sizes[Math.floor((sizes.length - 1) * COMMON)] || largestOf(numbers);
}

/**
 * Make a strip: a bar for each number of a vector, up or down.
 * @param {ArrayLike<number>} numbers
 * @param {number} largest the magnitude that fills half the height; larger ones are cut
 * @param {import("./theme.js").Palette} palette
 * @param {string[]} names meanings of the numbers
 */
export function strip(numbers, largest, palette, names) {
  const canvas = h("canvas", { class: "strip", "aria-hidden": "true" });
  // few numbers get wide bars, which stay sharp in a wide strip
  const [step, height] = [Math.max(8, Math.floor(512 / Math.max(numbers.length, 1))), 48];
  canvas.width = Math.max(numbers.length, 1) * step;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (context) {
    context.fillStyle = palette.line;
    context.fillRect(0, height / 2 - 1, canvas.width, 1);
    for (let index = 0; index < numbers.length; index++) {
      const share = Math.min(Math.max((numbers[index] ?? 0) / largest, -1), 1);
      const length = share * (height / 2);
      context.fillStyle = length < 0 ? palette.query : palette.key;
      context.fillRect(index * step + 1, height / 2, step - 2, -length);
    }
  }
  const labelled = Array.from(names, (name, index) => `${name} ${signed(numbers[index] ?? 0)}`);
  canvas.title = labelled.join(", ");
  return h(
    "span",
    { class: "strip-frame" },
    canvas,
    h("span", { class: "visually-hidden" }, labelled.join(", ")),
  );
}

/**
 * Make a number with its bar.
 * @param {number} value
 * @param {number} largest the magnitude that fills the bar's side
 * @param {boolean} isSigned whether bars go to both sides of zero
 */
export function numberWithBar(value, largest, isSigned) {
  const share = Number.isFinite(value) ? Math.min(Math.abs(value) / largest, 1) : 0;
  const bar = h("span", { class: `bar ${value < 0 ? "negative" : "positive"}` });
  bar.style.width = `${share * (isSigned ? 50 : 100)}%`;
  if (isSigned) bar.style.left = value < 0 ? `${50 - share * 50}%` : "50%";
  return [
    h("span", { class: "number" }, signed(value)),
    h("span", { class: `track ${isSigned ? "signed" : ""}`, "aria-hidden": "true" }, bar),
  ];
}

/**
 * Return a number as text for people, with a minus sign (−).
 * @param {number} value
 */
export function signed(value) {
  if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
  const size = Math.abs(value);
  const text =
    size === 0 ? "0" : size < 0.001 ? size.toExponential(0) : size.toFixed(size < 0.01 ? 3 : 2);
  return value < 0 ? `−${text}` : text;
}
