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
 * @returns {{ map: Float32Array, received: Float32Array, measures: number[] }} (groups, groups);
 *   (tokens): the mean weight that each token gets from the tokens shown that see it; what the head
 *   does, as reading/measures.py defines it
 */
export function shrink(weights, numTokens, { kept, starts, renormalise }) {
  const size = starts.length;
  const map = new Float32Array(size * size);
  const sums = new Float64Array(numTokens);
  const seen = new Uint32Array(numTokens);
  let [previous, next, first, same] = [0, 0, 0, 0];
  starts.forEach((start, group) => {
    const end = starts[group + 1] ?? kept.length;
    for (let own = start; own < end; own++) {
      const query = kept[own] ?? 0;
      const row = weights.subarray(query * numTokens, (query + 1) * numTokens);
      row.forEach((weight, key) => {
        if (!weight) return;
        sums[key] = (sums[key] ?? 0) + weight;
        seen[key] = (seen[key] ?? 0) + 1;
      });
      const factor = factorOf(row, kept, renormalise);
      let column = -1;
      kept.forEach((key, place) => {
        if (place === starts[column + 1]) column++;
        const at = group * size + column;
        const weight = (row[key] ?? 0) * factor;
        map[at] = Math.max(map[at] ?? 0, weight);
        if (place === own) same += weight;
        if (place === own - 1) previous += weight;
        if (place === own + 1) next += weight;
        if (place === 0 && own > 0) first += weight;
      });
    }
  });
  const received = Float32Array.from(sums, (sum, key) => sum / Math.max(seen[key] ?? 0, 1));
  const others = Math.max(kept.length - 1, 1);
  const measures = [previous / others, next / others, first / others, same / kept.length];
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
