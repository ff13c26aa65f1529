/** The numbers of a comparison: one token's row in both texts, and where they differ most. */

import { h } from "../../dom.js";
import { weightAt } from "../../head.js";
import { numberWithBar, signed } from "../../strip.js";
import { both } from "./align.js";

/**
 * @typedef {import("./align.js").Comparison} Comparison
 * @typedef {import("../../head.js").Matrix} Matrix
 */

/**
 * @typedef {object} Line a key, with its weight in both texts
 * @property {string} label
 * @property {number | null} first null: this text does not have it
 * @property {number | null} second null: the other does not have it
 */

/**
 * Return a row in both texts: first the keys of this text, then those that only the other has.
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
  const [ours, theirs] = [first.columns, second.columns];
  const [inFirst, inSecond] = [weightOf(first, query.a), weightOf(second, query.b)];
  const partners = new Map(pairs.map(({ a, b }) => [a, b]));
  const paired = new Set(pairs.map(({ b }) => b));
  const own = ours.tokens.map((a, place) => {
    const b = partners.get(a);
    const label = ours.labels[place] ?? "";
    if (b === undefined) return { label, first: inFirst(a), second: null };
    const other = theirs.labels[theirs.tokens.indexOf(b)] ?? label;
    return { label: both(label, other), first: inFirst(a), second: inSecond(b) };
  });
  const others = theirs.tokens.flatMap((b, place) =>
    paired.has(b) ? [] : { label: theirs.labels[place] ?? "", first: null, second: inSecond(b) },
  );
  return [...own, ...others];
}

/**
 * Make the table of a row.
 * @param {Line[]} lines
 * @param {Node | string} name of the token that looks
 */
export function rowTable(lines, name) {
  const most = Math.max(...lines.flatMap(({ first, second }) => [first ?? 0, second ?? 0]));
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
          weight(first, "first", most),
          weight(second, "second", most),
          difference(first, second, most),
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
  const most = Math.max(...places.flatMap((place) => [first[place] ?? 0, second[place] ?? 0]));
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
          weight(first[place] ?? 0, "first", most),
          weight(second[place] ?? 0, "second", most),
          difference(first[place] ?? 0, second[place] ?? 0, most),
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
 * @param {number} most the number whose bar fills the cell
 */
function weight(value, text, most) {
  if (value === null) return h("td", { class: "muted" }, "not there");
  return h("td", { class: `of-${text}` }, ...numberWithBar(value, most || 1, false));
}

/**
 * @param {number | null} first
 * @param {number | null} second
 * @param {number} most
 */
function difference(first, second, most) {
  if (first === null || second === null) return h("td", {});
  const value = second - first;
  const [number, track] = numberWithBar(value, most || 1, true);
  const sign = value > 0 ? "+" : "";
  if (number) number.textContent = `${sign}${signed(value)}`;
  return h("td", { class: "difference" }, number ?? "", track ?? "");
}
