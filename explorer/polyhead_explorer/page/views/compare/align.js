/** Which tokens of two texts belong together, and how their weights differ. */

/**
 * @typedef {import("../../app.js").Token} Token
 * @typedef {import("../../head.js").Matrix} Matrix
 * @typedef {import("../../state.js").Alignment} Alignment
 */

/** @typedef {{ a: number, b: number }} Pair a token of this text and its partner in the other */

/**
 * Find the tokens that belong together, in the order of the first text: by position, or equal
 * words, the first of a word with the first, the second with the second.
 * @param {Token[]} first
 * @param {Token[]} second
 * @param {Alignment} alignment
 * @returns {Pair[]}
 */
export function align(first, second, alignment) {
  if (alignment === "position") {
    const length = Math.min(first.length, second.length);
    return Array.from({ length }, (_, index) => ({ a: index, b: index }));
  }
  /** @type {Map<string, number[]>} */
  const places = new Map();
  second.forEach((token, index) => {
    const word = wordOf(token);
    places.set(word, [...(places.get(word) ?? []), index]);
  });
  return first.flatMap((token, a) => {
    const b = places.get(wordOf(token))?.shift();
    return b === undefined ? [] : { a, b };
  });
}

/** @param {Token} token */
function wordOf({ text, is_special }) {
  return `${is_special} ${text.toLowerCase()}`;
}

/**
 * @typedef {object} Comparison the weights between tokens that have partners
 * @property {number} size how many they are
 * @property {Pair[]} pairs indices of the tokens
 * @property {string[]} labels
 * @property {Float32Array} first (size, size): weights in this text
 * @property {Float32Array} second (size, size): weights in the other
 * @property {Float32Array} difference (size, size): the other's less this one's
 */

/**
 * Compare two heads' weights. Tokens that are hidden in either text are left out.
 * @param {Matrix} first
 * @param {Matrix} second
 * @param {Pair[]} pairs
 * @returns {Comparison}
 */
export function compare(first, second, pairs) {
  const places = pairs
    .map(({ a, b }) => ({
      a: first.tokens.indexOf(a),
      b: second.tokens.indexOf(b),
      pair: { a, b },
    }))
    .filter(({ a, b }) => a >= 0 && b >= 0);
  const size = places.length;
  const [weightsA, weightsB] = [new Float32Array(size * size), new Float32Array(size * size)];
  places.forEach((query, row) => {
    places.forEach((key, column) => {
      const index = row * size + column;
      weightsA[index] = first.weights[query.a * first.size + key.a] ?? 0;
      weightsB[index] = second.weights[query.b * second.size + key.b] ?? 0;
    });
  });
  return {
    size,
    pairs: places.map(({ pair }) => pair),
    labels: places.map(({ a, b }) => both(first.labels[a] ?? "", second.labels[b] ?? "")),
    first: weightsA,
    second: weightsB,
    difference: weightsB.map((weight, index) => weight - (weightsA[index] ?? 0)),
  };
}

/**
 * Name a pair: by one word if both are the same.
 * @param {string} a
 * @param {string} b
 */
export function both(a, b) {
  return a.toLowerCase() === b.toLowerCase() ? a : `${a} | ${b}`;
}
