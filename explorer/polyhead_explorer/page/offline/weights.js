/** Matrices of weights for the page, computed in the same way as in reading/matrices.py. */

/**
 * @typedef {import("../source.js").Groups} Groups
 * @typedef {import("../subject.js").Reading} Reading
 */

/**
 * @typedef {object} MapLayout the rows and columns of a map of weights
 * @property {Groups} rows
 * @property {Groups} keys in self-attention equal to the rows
 * @property {boolean} isCross
 * @property {boolean} renormalise whether the shown weights of a row are scaled to sum to 1
 */

/**
 * Hide tokens, and group the others into rows and columns.
 * @param {Reading} reading
 * @param {import("../source.js").Filter} filter
 * @param {number} maxSize most rows and most columns
 * @returns {MapLayout}
 */
export function layoutOf({ tokens, keys, isCross }, filter, maxSize) {
  const rows = groupsOf(tokens.length, filter.hide, maxSize);
  const columns = isCross ? groupsOf(keys.length, filter.hide_keys ?? [], maxSize) : rows;
  return { rows, keys: columns, isCross, renormalise: filter.renormalise };
}

/**
 * @param {number} numTokens
 * @param {number[]} hide
 * @param {number} maxSize most groups
 * @returns {Groups} if all tokens are hidden, all are shown
 */
function groupsOf(numTokens, hide, maxSize) {
  const all = [...Array(numTokens).keys()];
  const hidden = new Set(hide);
  const visible = all.filter((token) => !hidden.has(token));
  const kept = visible.length ? visible : all;
  const size = Math.min(kept.length, maxSize);
  const starts = Array.from({ length: size }, (_, group) =>
    Math.floor((group * kept.length) / size),
  );
  return { kept, starts };
}

/**
 * Compute the map of a head: the largest weight between two groups of tokens.
 * @param {Float32Array} weights (tokens, keys) of one head
 * @param {number} numKeys
 * @param {MapLayout} layout
 * @returns {{ map: Float32Array, received: Float32Array, measures: number[] }} map: (rows,
 *   columns); received: the mean weight of each key in the shown rows where it is not 0; measures:
 *   see reading/measures.py
 */
export function shrink(weights, numKeys, { rows, keys, isCross, renormalise }) {
  const numColumns = keys.starts.length;
  const map = new Float32Array(rows.starts.length * numColumns);
  const sums = new Float64Array(numKeys);
  const counts = new Uint32Array(numKeys);
  let [previous, next, first, same, ofFirst] = [0, 0, 0, 0, 0];
  rows.starts.forEach((start, group) => {
    const end = rows.starts[group + 1] ?? rows.kept.length;
    for (let own = start; own < end; own++) {
      const query = rows.kept[own] ?? 0;
      const row = weights.subarray(query * numKeys, (query + 1) * numKeys);
      row.forEach((weight, key) => {
        if (!weight) return;
        sums[key] = (sums[key] ?? 0) + weight;
        counts[key] = (counts[key] ?? 0) + 1;
      });
      const factor = factorOf(row, keys.kept, renormalise);
      let column = -1;
      keys.kept.forEach((key, place) => {
        if (place === keys.starts[column + 1]) column++;
        const at = group * numColumns + column;
        const weight = (row[key] ?? 0) * factor;
        map[at] = Math.max(map[at] ?? 0, weight);
        if (place === own) same += weight;
        if (place === own - 1) previous += weight;
        if (place === own + 1) next += weight;
        if (place === 0 && own > 0) first += weight;
        if (place === 0) ofFirst += weight;
      });
    }
  });
  const received = Float32Array.from(sums, (sum, key) => sum / Math.max(counts[key] ?? 0, 1));
  const numAll = rows.kept.length;
  const numOthers = Math.max(numAll - 1, 1);
  const measures = isCross
    ? [ofFirst / numAll]
    : [previous / numOthers, next / numOthers, first / numOthers, same / numAll];
  return { map, received, measures };
}

/**
 * Return the factor of a row's weights.
 * @param {Float32Array} row
 * @param {number[]} kept
 * @param {boolean} renormalise
 */
export function factorOf(row, kept, renormalise) {
  if (!renormalise) return 1;
  const sum = kept.reduce((total, key) => total + (row[key] ?? 0), 0);
  return sum > 0 ? 1 / sum : 0;
}
