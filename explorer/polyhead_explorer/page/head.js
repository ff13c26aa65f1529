/** One head's matrix, with the names of its rows and columns. */

import { nameOf, partsOf } from "./subject.js";

/**
 * @typedef {object} Side the rows or the columns
 * @property {number} size number of rows or columns
 * @property {string[]} labels
 * @property {number[]} tokens the first token of each row or column
 * @property {boolean} isGrouped whether they are groups of tokens
 * @property {number[]} boundaries rows or columns at which a second text begins
 */

/**
 * @typedef {object} Matrix
 * @property {Float32Array} weights (rows, columns)
 * @property {Side} rows the tokens that attend
 * @property {Side} columns the tokens that are attended to
 * @property {boolean} isCross whether the columns are the encoder's tokens, and the rows the decoder's
 */

/** @typedef {"row" | "column"} Axis */

/** @type {WeakMap<object, Matrix>} */
const matrices = new WeakMap();

/**
 * Return a head's matrix. The same head has always the same object.
 * @param {{ reading: import("./app.js").Reading, head: import("./app.js").Head }} loaded
 * @returns {Matrix}
 */
export function matrixOf(loaded) {
  let matrix = matrices.get(loaded);
  if (!matrix) {
    const { reading, head } = loaded;
    matrix = {
      weights: head.weights,
      rows: sideOf(reading.tokens, head.rows),
      columns: sideOf(reading.keys, head.keys),
      isCross: reading.isCross,
    };
    matrices.set(loaded, matrix);
  }
  return matrix;
}

/**
 * @param {import("./app.js").Token[]} all
 * @param {import("./source.js").Groups} groups
 * @returns {Side}
 */
function sideOf(all, { kept, starts }) {
  const isGrouped = starts.length < kept.length;
  const tokens = starts.map((start) => kept[start] ?? 0);
  const labels = tokens.map((token) => {
    const name = nameOf(all[token]);
    return isGrouped ? `${name}…` : name;
  });
  return { size: starts.length, labels, tokens, isGrouped, boundaries: boundariesOf(all, tokens) };
}

/**
 * Return the places at which a second text begins.
 * @param {import("./app.js").Token[]} all
 * @param {number[]} shown indices of the shown tokens
 */
export function boundariesOf(all, shown) {
  return partsOf(all)
    .map(({ start }) => shown.findIndex((token) => token >= start))
    .filter((place) => place > 0);
}

/**
 * Return one weight.
 * @param {Matrix} matrix
 * @param {number} query row
 * @param {number} key column
 */
export function weightAt({ weights, columns }, query, key) {
  return weights[query * columns.size + key] ?? 0;
}

/**
 * Return the largest weights of a row or a column, the largest first.
 * @param {Matrix} matrix
 * @param {number} place
 * @param {Axis} axis
 * @param {number} count
 */
export function largest(matrix, place, axis, count) {
  const { size, labels } = axis === "row" ? matrix.columns : matrix.rows;
  const weights = Array.from({ length: size }, (_, other) => ({
    label: labels[other] ?? "",
    weight: axis === "row" ? weightAt(matrix, place, other) : weightAt(matrix, other, place),
  }));
  return weights.sort((a, b) => b.weight - a.weight).slice(0, count);
}

/**
 * Return the row or column of a token; -1 if it is hidden.
 * @param {Side} side
 * @param {number} token
 */
export function placeOf({ tokens, isGrouped }, token) {
  if (!isGrouped) return tokens.indexOf(token);
  return tokens.findLastIndex((first) => first <= token);
}

/**
 * Return the row of the chosen token, and the column of the chosen key. In self-attention the chosen
 * key is the chosen token.
 * @param {Matrix} matrix
 * @param {{ token: number, partner: number }} chosen
 */
export function chosenPlaces({ rows, columns, isCross }, { token, partner }) {
  return { row: placeOf(rows, token), column: placeOf(columns, isCross ? partner : token) };
}
