/** The table of the steps: a row for each key, a column for each step. */

import { h } from "../../dom.js";
import { boundariesOf } from "../../head.js";
import { commonSize, largestOf, numberWithBar, signed, strip, vectorAt } from "../../strip.js";
import { nameOf } from "../../subject.js";

/**
 * @typedef {import("../../source.js").Spec} Spec
 * @typedef {import("../../source.js").Tensor} Tensor
 * @typedef {import("../../theme.js").Palette} Palette
 */

/**
 * @param {import("../../app.js").Reading} reading
 * @param {number[]} keys the keys that have a row
 * @param {number} query
 * @param {import("../../source.js").Row} row
 * @param {import("../../source.js").Vectors | undefined} vectors
 * @param {Palette} palette
 */
export function stepsTable({ keys: tokens, isCross }, keys, query, row, vectors, palette) {
  const columns = columnsOf(row, vectors, isCross, palette);
  const boundaries = boundariesOf(tokens, keys);
  return h(
    "table",
    { class: "steps-table" },
    h("caption", { class: "visually-hidden" }, "The steps of each key"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "Key"),
        ...columns.map(({ step, title, formulaNode }) =>
          h("th", { scope: "col" }, stepNumber(step), title, h("br"), formulaNode),
        ),
      ),
    ),
    h(
      "tbody",
      {},
      ...keys.map((key, place) =>
        h(
          "tr",
          {
            class: `${key === query && !isCross ? "own" : ""} ${boundaries.includes(place) ? "begins-text" : ""}`,
          },
          h("th", { scope: "row" }, nameOf(tokens[key])),
          ...columns.map(({ cell }) => h("td", {}, ...cell(key))),
        ),
      ),
    ),
  );
}

/**
 * @typedef {{ step: number, title: string, formulaNode: Node, cell: (key: number) => Node[] }} Column
 */

/**
 * @param {import("../../source.js").Row} row
 * @param {import("../../source.js").Vectors | undefined} vectors
 * @param {boolean} isCross whether keys are computed from the encoder's output, e, not from x
 * @param {Palette} palette
 * @returns {Column[]}
 */
function columnsOf({ spec, scores, masked, weights }, vectors, isCross, palette) {
  const { key, terms, products, weighted, weighted_length: lengths } = vectors?.arrays ?? {};
  /** @type {Column[]} */
  const columns = [];
  if (key && terms && products) {
    const [termsOf, sumOf] = [stripOf(terms), barOf(products.data)];
    columns.push(
      {
        step: 2,
        title: "Keys",
        formulaNode: formula("k = W", sub("k"), isCross ? " e" : " x"),
        cell: stripOf(key),
      },
      {
        step: 3,
        title: "Dot product",
        formulaNode: formula("q · k = Σ q", sub("i"), " k", sub("i")),
        cell(at) {
          const [number, track] = sumOf(at);
          return [h("span", { class: "vector" }, number ?? null, ...termsOf(at)), track ?? h("i")];
        },
      },
    );
  }
  columns.push(
    { step: 4, title: "Scaled", formulaNode: formula(scaled(spec)), cell: barOf(scores) },
    {
      step: 5,
      title: "Masked",
      formulaNode: formula(`m = s ${maskOf(spec)}`),
      cell: barOf(masked),
    },
    {
      step: 6,
      title: "Softmax",
      formulaNode: formula("w = e", sup("m"), " / Σ e", sup("m")),
      cell: (at) => numberWithBar(weights[at] ?? 0, 1, false),
    },
  );
  if (weighted && lengths) {
    const [asStrip, largest] = [stripOf(weighted), largestOf(lengths.data)];
    columns.push({
      step: 7,
      title: "Weighted value",
      formulaNode: formula("w · v"),
      cell(at) {
        const [number, track] = numberWithBar(lengths.data[at] ?? 0, largest, false);
        return [h("span", { class: "vector" }, number ?? null, ...asStrip(at)), track ?? h("i")];
      },
    });
  }
  return columns;

  /** @param {Float32Array} numbers */
  function barOf(numbers) {
    const largest = largestOf(numbers);
    return (/** @type {number} */ key) => numberWithBar(numbers[key] ?? 0, largest, true);
  }

  /** @param {Tensor | undefined} tensor */
  function stripOf(tensor) {
    if (!tensor) return () => [];
    const size = commonSize(tensor.data);
    return (/** @type {number} */ key) => [strip(vectorAt(tensor, key), size, palette, [])];
  }
}

/**
 * Return the formula of a score.
 * @param {Spec} spec
 */
function scaled({ softcap, scale }) {
  const product = `${signed(scale)} q · k`;
  if (!softcap) return `s = ${product}`;
  return `s = ${signed(softcap)} tanh(${product} / ${signed(softcap)})`;
}

/** @param {number} number */
export function stepNumber(number) {
  return h("span", { class: "step-number" }, number);
}

/** @param {...(Node | string)} children */
export function formula(...children) {
  return h("span", { class: "formula" }, ...children);
}

/** @param {string} text */
export function sub(text) {
  return h("sub", {}, text);
}

/** @param {string} text */
function sup(text) {
  return h("sup", {}, text);
}

/** @param {Spec} spec */
function maskOf({ has_alibi, relative_buckets }) {
  if (has_alibi) return "− distance + mask";
  return relative_buckets ? "+ bias + mask" : "+ mask";
}
