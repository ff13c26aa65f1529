/** Pairs the tokens of this text and of the other, and compares the weights between them. */

import { weightAt } from "../../head.js";
import { partsOf } from "../../subject.js";

/**
 * @typedef {import("../../app.js").Token} Token
 * @typedef {import("../../head.js").Matrix} Matrix
 * @typedef {import("../../state.js").Alignment} Alignment
 */

/** @typedef {{ a: number, b: number }} Pair a token of this text and its partner in the other */

/**
 * Pair the tokens of this text and of the other, in the order of this text. Tokens of second texts
 * have their partners there.
 * @param {Token[]} own
 * @param {Token[]} other
 * @param {Alignment} alignment
 * @returns {Pair[]}
 */
export function align(own, other, alignment) {
  const others = partsOf(other);
  return partsOf(own).flatMap((part) => {
    const partner = others.find(({ textIndex }) => textIndex === part.textIndex);
    if (!partner) return [];
    const tokens = own.slice(part.start, part.end);
    const theirs = other.slice(partner.start, partner.end);
    return alignPart(tokens, theirs, alignment).map(({ a, b }) => ({
      a: a + part.start,
      b: b + partner.start,
    }));
  });
}

/**
 * Pair tokens by position, or by equal words, the first token of a word with the first, the second
 * with the second.
 * @param {Token[]} first
 * @param {Token[]} second
 * @param {Alignment} alignment
 * @returns {Pair[]}
 */
function alignPart(first, second, alignment) {
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

/** @typedef {{ rows: Pair[], columns: Pair[] }} Pairs in self-attention, both are equal */

/**
 * @typedef {object} Paired the rows or columns with partners
 * @property {number} size number of them
 * @property {Pair[]} pairs indices of the tokens
 * @property {string[]} labels
 * @property {number[]} boundaries rows or columns at which a second text begins
 */

/**
 * @typedef {object} Comparison the weights between tokens that have partners
 * @property {Paired} rows
 * @property {Paired} columns
 * @property {Float32Array} first (rows, columns): weights in this text
 * @property {Float32Array} second (rows, columns): weights in the other
 * @property {Float32Array} difference (rows, columns): second minus first
 */

/**
 * Compare two heads' weights. Tokens that are hidden in either text are left out.
 * @param {Matrix} first
 * @param {Matrix} second
 * @param {Pairs} pairs
 * @returns {Comparison}
 */
export function compare(first, second, pairs) {
  const rows = placesOf(first.rows, second.rows, pairs.rows);
  const columns = placesOf(first.columns, second.columns, pairs.columns);
  const size = rows.length * columns.length;
  const [weightsA, weightsB] = [new Float32Array(size), new Float32Array(size)];
  rows.forEach((query, row) => {
    columns.forEach((key, column) => {
      const index = row * columns.length + column;
      weightsA[index] = weightAt(first, query.a, key.a);
      weightsB[index] = weightAt(second, query.b, key.b);
    });
  });
  return {
    rows: paired(rows, first.rows),
    columns: paired(columns, first.columns),
    first: weightsA,
    second: weightsB,
    difference: weightsB.map((weight, index) => weight - (weightsA[index] ?? 0)),
  };
}

/** @typedef {{ a: number, b: number, pair: Pair, label: string }} Place of a pair in two matrices */

/**
 * @param {import("../../head.js").Side} first
 * @param {import("../../head.js").Side} second
 * @param {Pair[]} pairs
 * @returns {Place[]}
 */
function placesOf(first, second, pairs) {
  return pairs
    .map((pair) => ({ pair, a: first.tokens.indexOf(pair.a), b: second.tokens.indexOf(pair.b) }))
    .filter(({ a, b }) => a >= 0 && b >= 0)
    .map((place) => ({
      ...place,
      label: both(first.labels[place.a] ?? "", second.labels[place.b] ?? ""),
    }));
}

/**
 * @param {Place[]} places
 * @param {import("../../head.js").Side} side of this text
 * @returns {Paired}
 */
function paired(places, { boundaries }) {
  return {
    size: places.length,
    pairs: places.map(({ pair }) => pair),
    labels: places.map(({ label }) => label),
    boundaries: boundaries
      .map((boundary) => places.findIndex(({ a }) => a >= boundary))
      .filter((place) => place > 0),
  };
}

/**
 * Return the name of a pair: one word if both are equal.
 * @param {string} a
 * @param {string} b
 */
export function both(a, b) {
  return a.toLowerCase() === b.toLowerCase() ? a : `${a} | ${b}`;
}
