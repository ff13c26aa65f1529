/** The links that are drawn as lines: their tokens and their strength. */

import { weightAt } from "../head.js";

const NUM_STEPS = 16;
const MIN_SHARE = 0.03;

/**
 * @typedef {import("../head.js").Matrix} Matrix
 * @typedef {{ query: number, key: number, strength: number }} Link
 * @typedef {{ side: "query" | "key", place: number }} Focus
 * @typedef {{ first: number, end: number }} Range
 */

/**
 * Return the weight between the token in focus and one of the other side; null without focus.
 * @param {Matrix} matrix
 * @param {Focus | null} focus
 * @param {"query" | "key"} side
 * @param {number} place
 */
export function weightBetween(matrix, focus, side, place) {
  if (!focus || focus.side === side) return null;
  const [query, key] = focus.side === "query" ? [focus.place, place] : [place, focus.place];
  return weightAt(matrix, query, key);
}

/**
 * Return the links between visible tokens.
 * @param {Matrix} matrix
 * @param {Range} rows
 * @param {Range} columns
 * @param {(weight: number) => number} share
 */
export function linksBetween(matrix, rows, columns, share) {
  /** @type {Link[]} */
  const links = [];
  for (let query = rows.first; query < rows.end; query++) {
    for (let key = columns.first; key < columns.end; key++) {
      const strength = share(weightAt(matrix, query, key));
      if (strength >= MIN_SHARE) links.push({ query, key, strength });
    }
  }
  return links;
}

/**
 * Return all links of the token in focus.
 * @param {Matrix} matrix
 * @param {Focus} focus
 * @param {(weight: number) => number} share
 */
export function linksOf(matrix, { side, place }, share) {
  const { size } = side === "query" ? matrix.columns : matrix.rows;
  return Array.from({ length: size }, (_, other) => {
    const [query, key] = side === "query" ? [place, other] : [other, place];
    return { query, key, strength: share(weightAt(matrix, query, key)) };
  }).filter(({ strength }) => strength > 0);
}

/**
 * @param {Link[]} links
 * @param {number} count
 */
export function strongest(links, count) {
  if (links.length <= count) return links;
  return links.sort((a, b) => b.strength - a.strength).slice(0, count);
}

/**
 * Group links by their strength, the weakest first.
 * @param {Link[]} links
 */
export function inSteps(links) {
  /** @type {Link[][]} */
  const steps = Array.from({ length: NUM_STEPS }, () => []);
  for (const link of links) {
    steps[Math.min(Math.floor(link.strength * NUM_STEPS), NUM_STEPS - 1)]?.push(link);
  }
  return steps
    .map((paths, step) => /** @type {const} */ ([(step + 1) / NUM_STEPS, paths]))
    .filter(([, paths]) => paths.length);
}
