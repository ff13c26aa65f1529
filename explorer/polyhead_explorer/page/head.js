/** One head's matrix, with the names of its rows and columns. */

/**
 * @typedef {object} Matrix
 * @property {number} size rows and columns
 * @property {Float32Array} weights (size, size)
 * @property {string[]} labels of rows and columns
 * @property {number[]} tokens the first token of each row and column
 * @property {boolean} isGrouped whether rows and columns are groups of tokens
 */

/** @type {WeakMap<object, Matrix>} */
const known = new WeakMap();

/**
 * Return a head's matrix. The same head gives the same object.
 * @param {{ reading: import("./app.js").Reading, head: import("./app.js").Head }} found
 * @returns {Matrix}
 */
export function matrixOf(found) {
  let matrix = known.get(found);
  if (!matrix) known.set(found, (matrix = makeMatrix(found)));
  return matrix;
}

/** @param {Parameters<typeof matrixOf>[0]} found */
function makeMatrix({ reading, head: { kept, starts, weights } }) {
  const isGrouped = starts.length < kept.length;
  const tokens = starts.map((start) => kept[start] ?? 0);
  const labels = tokens.map((token) => {
    const text = reading.tokens[token]?.text ?? "";
    return isGrouped ? `${text}…` : text;
  });
  return { size: starts.length, weights, labels, tokens, isGrouped };
}

/**
 * Return a row or a column of a matrix, largest weight first.
 * @param {Matrix} matrix
 * @param {number} place
 * @param {"row" | "column"} axis
 * @param {number} count
 */
export function largest({ size, weights }, place, axis, count) {
  const found = Array.from({ length: size }, (_, other) => ({
    place: other,
    weight: weights[axis === "row" ? place * size + other : other * size + place] ?? 0,
  }));
  return found.sort((a, b) => b.weight - a.weight).slice(0, count);
}

/**
 * Return the row and column that a token is in; -1 if it is hidden.
 * @param {Matrix} matrix
 * @param {number} token
 */
export function placeOf({ tokens, isGrouped }, token) {
  if (!isGrouped) return tokens.indexOf(token);
  return tokens.findLastIndex((first) => first <= token);
}
