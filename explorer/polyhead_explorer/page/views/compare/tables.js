/** The tables of a comparison: one token's row in this text and in the other, and the largest differences. */

import { h } from "../../dom.js";
import { weightAt } from "../../head.js";
import { numberWithBar, signed } from "../../strip.js";
import { both } from "./align.js";

/**
 * @typedef {import("./align.js").Comparison} Comparison
 * @typedef {import("../../head.js").Matrix} Matrix
 */

/**
 * @typedef {object} Line a key, with its weight in this text and in the other
 * @property {string} label
 * @property {number | null} first null if this text does not have it
 * @property {number | null} second null if the other does not have it
 */

/**
 * Return a row in this text and in the other: the keys of this text, and then those that only the other has.
 * @param {Matrix} first
 * @param {Matrix} second
 * @param {import("./align.js").Pair[]} pairs of keys
 * @param {import("./align.js").Pair} query
 * @returns {Line[]}
 */
export function linesOf(first, second, pairs, query) {
  const weightOf = (/** @type {Matrix} */ matrix, /** @type {number} */ from) => {
    const row = matrix.rows.tokens.indexOf(from);
    return (/** @type {number} */ token) => {
      const column = matrix.columns.tokens.indexOf(token);
      return column < 0 ? null : weightAt(matrix, row, column);
    };
  };
  const [ownKeys, otherKeys] = [first.columns, second.columns];
  const [inFirst, inSecond] = [weightOf(first, query.a), weightOf(second, query.b)];
  const partners = new Map(pairs.map(({ a, b }) => [a, b]));
  const paired = new Set(pairs.map(({ b }) => b));
  const own = ownKeys.tokens.map((a, place) => {
    const b = partners.get(a);
    const label = ownKeys.labels[place] ?? "";
    if (b === undefined) return { label, first: inFirst(a), second: null };
    const other = otherKeys.labels[otherKeys.tokens.indexOf(b)] ?? label;
    return { label: both(label, other), first: inFirst(a), second: inSecond(b) };
  });
  const others = otherKeys.tokens.flatMap((b, place) =>
    paired.has(b) ? [] : { label: otherKeys.labels[place] ?? "", first: null, second: inSecond(b) },
  );
  return [...own, ...others];
}

/**
 * Make the table of a row.
 * @param {Line[]} lines
 * @param {Node | string} name of the token that attends
 */
export function rowTable(lines, name) {
  const largest = Math.max(...lines.flatMap(({ first, second }) => [first ?? 0, second ?? 0]));
  return h(
    "table",
    { class: "steps-table differences" },
    h("caption", {}, "What ", name, " looks at"),
    head("Token", "This text", "The other", "Difference"),
    h(
      "tbody",
      {},
      ...lines.map(({ label, first, second }) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, label),
          weight(first, "first", largest),
          weight(second, "second", largest),
          difference(first, second, largest),
        ),
      ),
    ),
  );
}

/**
 * Make the table of the largest differences between tokens that have partners.
 * @param {Comparison} comparison
 * @param {number} count
 */
export function largestTable({ rows, columns, first, second, difference: all }, count) {
  const places = [...all.keys()]
    .sort((a, b) => Math.abs(all[b] ?? 0) - Math.abs(all[a] ?? 0))
    .slice(0, count);
  const largest = Math.max(...places.flatMap((place) => [first[place] ?? 0, second[place] ?? 0]));
  return h(
    "table",
    { class: "steps-table differences" },
    h("caption", {}, "Where they differ most"),
    head("Tokens", "This text", "The other", "Difference"),
    h(
      "tbody",
      {},
      ...places.map((place) =>
        h(
          "tr",
          {},
          h(
            "th",
            { scope: "row" },
            h("span", { class: "query" }, rows.labels[Math.floor(place / columns.size)] ?? ""),
            " → ",
            h("span", { class: "key" }, columns.labels[place % columns.size] ?? ""),
          ),
          weight(first[place] ?? 0, "first", largest),
          weight(second[place] ?? 0, "second", largest),
          difference(first[place] ?? 0, second[place] ?? 0, largest),
        ),
      ),
    ),
  );
}

/** @param {...string} titles */
function head(...titles) {
  const row = h("tr", {}, ...titles.map((title) => h("th", { scope: "col" }, title)));
  return h("thead", {}, row);
}

/**
 * @param {number | null} value
 * @param {"first" | "second"} text
 * @param {number} largest the number whose bar fills the cell
 */
function weight(value, text, largest) {
  if (value === null) return h("td", { class: "muted" }, "not there");
  return h("td", { class: `of-${text}` }, ...numberWithBar(value, largest || 1, false));
}

/**
 * @param {number | null} first
 * @param {number | null} second
 * @param {number} largest
 */
function difference(first, second, largest) {
  if (first === null || second === null) return h("td", {});
  const value = second - first;
  const [number, track] = numberWithBar(value, largest || 1, true);
  const sign = value > 0 ? "+" : "";
  if (number) number.textContent = `${sign}${signed(value)}`;
  return h("td", { class: "difference" }, number ?? "", track ?? "");
}
