/** Matrices of weights as the page shows them, computed as reading/matrices.py does. */

/**
 * @typedef {import("../source.js").Groups} Groups
 * @typedef {import("../subject.js").Reading} Reading
 */

/**
 * @typedef {object} Shown
 * @property {Groups} rows
 * @property {Groups} keys of self-attention, the same
 * @property {boolean} isCross
 * @property {boolean} renormalise whether what is left of a row is scaled to sum to 1
 */

/**
 * Say what is shown of a reading's weights.
 * @param {Reading} reading
 * @param {import("../source.js").Shown} shown
 * @param {number} maxSize most groups each way
 * @returns {Shown}
 */
export function shownOf({ tokens, keys, isCross }, shown, maxSize) {
  const rows = groupsOf(tokens.length, shown.hide, maxSize);
  const columns = isCross ? groupsOf(keys.length, shown.hide_keys ?? [], maxSize) : rows;
  return { rows, keys: columns, isCross, renormalise: shown.renormalise };
}

/**
 * @param {number} numTokens
 * @param {number[]} hide
 * @param {number} maxSize most groups
 * @returns {Groups} if no token would be left, all are shown
 */
function groupsOf(numTokens, hide, maxSize) {
  const all = [...Array(numTokens).keys()];
  const hidden = new Set(hide);
  const left = all.filter((token) => !hidden.has(token));
  const kept = left.length ? left : all;
  const size = Math.min(kept.length, maxSize);
  const starts = Array.from({ length: size }, (_, group) =>
    Math.floor((group * kept.length) / size),
  );
  return { kept, starts };
}

/**
 * Hide tokens, and take the largest weight of each group of tokens.
 * @param {Float32Array} weights (tokens, keys) of one head
 * @param {number} numKeys
 * @param {Shown} shown
 * @returns {{ map: Float32Array, received: Float32Array, measures: number[] }} (groups, groups);
 *   (keys): the mean weight that each key gets from the tokens shown that see it; what the head
 *   does, as reading/measures.py defines it
 */
export function shrink(weights, numKeys, { rows, keys, isCross, renormalise }) {
  const numColumns = keys.starts.length;
  const map = new Float32Array(rows.starts.length * numColumns);
  const sums = new Float64Array(numKeys);
  const seen = new Uint32Array(numKeys);
  let [previous, next, first, same, ofFirst] = [0, 0, 0, 0, 0];
  rows.starts.forEach((start, group) => {
    const end = rows.starts[group + 1] ?? rows.kept.length;
    for (let own = start; own < end; own++) {
      const query = rows.kept[own] ?? 0;
      const row = weights.subarray(query * numKeys, (query + 1) * numKeys);
      row.forEach((weight, key) => {
        if (!weight) return;
        sums[key] = (sums[key] ?? 0) + weight;
        seen[key] = (seen[key] ?? 0) + 1;
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
  const received = Float32Array.from(sums, (sum, key) => sum / Math.max(seen[key] ?? 0, 1));
  const everyone = rows.kept.length;
  const others = Math.max(everyone - 1, 1);
  const measures = isCross
    ? [ofFirst / everyone]
    : [previous / others, next / others, first / others, same / everyone];
  return { map, received, measures };
}

/**
 * Return what a row's weights are multiplied by.
 * @param {Float32Array} row
 * @param {number[]} kept
 * @param {boolean} renormalise
 */
export function factorOf(row, kept, renormalise) {
  if (!renormalise) return 1;
  const sum = kept.reduce((total, key) => total + (row[key] ?? 0), 0);
  return sum > 0 ? 1 / sum : 0;
}
