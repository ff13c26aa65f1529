/** Matrices of weights as the page shows them, computed as reading/matrices.py does. */

/**
 * @typedef {object} Shown
 * @property {number[]} kept the tokens that are not hidden
 * @property {number[]} starts where in `kept` each group begins whose tokens share a row
 * @property {boolean} renormalise whether what is left of a row is scaled to sum to 1
 */

/**
 * @param {number} numTokens
 * @param {number[]} hide
 * @param {number} maxSize most groups
 * @param {boolean} renormalise
 * @returns {Shown} if no token would be left, all are shown
 */
export function shownOf(numTokens, hide, maxSize, renormalise) {
  const all = [...Array(numTokens).keys()];
  const hidden = new Set(hide);
  const left = all.filter((token) => !hidden.has(token));
  const kept = left.length ? left : all;
  const size = Math.min(kept.length, maxSize);
  const starts = Array.from({ length: size }, (_, group) =>
    Math.floor((group * kept.length) / size),
  );
  return { kept, starts, renormalise };
}

/**
 * Hide tokens, and take the largest weight of each group of tokens.
 * @param {Float32Array} weights (tokens, tokens) of one head
 * @param {number} numTokens
 * @param {Shown} shown
 * @returns {{ map: Float32Array, received: Float32Array }} (groups, groups); (tokens): the mean
 *   weight that each token gets from the tokens shown that see it
 */
export function shrink(weights, numTokens, { kept, starts, renormalise }) {
  const size = starts.length;
  const map = new Float32Array(size * size);
  const sums = new Float64Array(numTokens);
  const seen = new Uint32Array(numTokens);
  starts.forEach((start, group) => {
    const end = starts[group + 1] ?? kept.length;
    for (const query of kept.slice(start, end)) {
      const row = weights.subarray(query * numTokens, (query + 1) * numTokens);
      row.forEach((weight, key) => {
        if (!weight) return;
        sums[key] = (sums[key] ?? 0) + weight;
        seen[key] = (seen[key] ?? 0) + 1;
      });
      const sum = kept.reduce((total, key) => total + (row[key] ?? 0), 0);
      const factor = renormalise ? (sum > 0 ? 1 / sum : 0) : 1;
      let column = -1;
      kept.forEach((key, place) => {
        if (place === starts[column + 1]) column++;
        const at = group * size + column;
        map[at] = Math.max(map[at] ?? 0, (row[key] ?? 0) * factor);
      });
    }
  });
  const received = Float32Array.from(sums, (sum, key) => sum / Math.max(seen[key] ?? 0, 1));
  return { map, received };
}
