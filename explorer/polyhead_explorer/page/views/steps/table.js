/** The keys on their way through the steps: a row for each, a column for each step. */

import { h } from "../../dom.js";
import { commonSize, largestOf, numberWithBar, signed, strip, vectorAt } from "../../strip.js";

/**
 * @typedef {import("../../source.js").Spec} Spec
 * @typedef {import("../../source.js").Tensor} Tensor
 * @typedef {import("../../theme.js").Palette} Palette
 */

/**
 * @param {import("../../app.js").Token[]} tokens
 * @param {number[]} keys the keys that have a row
 * @param {number} query
 * @param {import("../../source.js").Row} row
 * @param {import("../../source.js").Vectors | undefined} vectors
 * @param {Palette} palette
 */
export function stepsTable(tokens, keys, query, row, vectors, palette) {
  const columns = columnsOf(row, vectors, palette);
  return h(
    "table",
    { class: "steps-table" },
    h("caption", { class: "visually-hidden" }, "Each key on its way through the steps"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "Key"),
        ...columns.map(({ step, title, written }) =>
          h("th", { scope: "col" }, stepNumber(step), title, h("br"), written),
        ),
      ),
    ),
    h(
      "tbody",
      {},
      ...keys.map((key) =>
        h(
          "tr",
          { class: key === query ? "own" : "" },
          h("th", { scope: "row" }, tokens[key]?.text ?? ""),
          ...columns.map(({ cell }) => h("td", {}, ...cell(key))),
        ),
      ),
    ),
  );
}

/**
 * @typedef {{ step: number, title: string, written: Node, cell: (key: number) => Node[] }} Column
 */

/**
 * @param {import("../../source.js").Row} row
 * @param {import("../../source.js").Vectors | undefined} vectors
 * @param {Palette} palette
 * @returns {Column[]}
 */
function columnsOf({ spec, scores, masked, weights }, vectors, palette) {
  const names = vectors?.dimensions ?? [];
  /** @type {Column[]} */
  const columns = [
    {
      step: 2,
      title: "Keys",
      written: formula("k = W", sub("k"), " x"),
      cell: stripOf(vectors?.arrays.entering),
    },
    {
      step: 3,
      title: "Dot product",
      written: formula("q · k"),
      cell: barOf(scores.map((score) => score / spec.scale)),
    },
    {
      step: 4,
      title: "Scaled",
      written: formula(canDivide(spec) ? `s = ${signed(spec.scale)} q · k` : "s"),
      cell: barOf(scores),
    },
    {
      step: 5,
      title: "Masked",
      written: formula(`m = s ${maskOf(spec)}`),
      cell: barOf(masked),
    },
    {
      step: 6,
      title: "Softmax",
      written: formula("w = e", sup("m"), " / Σ e", sup("m")),
      cell: (key) => numberWithBar(weights[key] ?? 0, 1, false),
    },
  ];
  const weighted = vectors?.arrays.weighted;
  const lengths = vectors?.arrays.weighted_length?.data;
  if (weighted && lengths) {
    const [asStrip, most] = [stripOf(weighted), largestOf(lengths)];
    columns.push({
      step: 7,
      title: "Weighted value",
      written: formula("w · W", sub("o"), " v"),
      cell(key) {
        const [number, track] = numberWithBar(lengths[key] ?? 0, most, false);
        return [h("span", { class: "vector" }, number ?? null, ...asStrip(key)), track ?? h("i")];
      },
    });
  }
  return columns.filter(({ step }) => step !== 3 || canDivide(spec));

  /** @param {Float32Array} numbers */
  function barOf(numbers) {
    const most = largestOf(numbers);
    return (/** @type {number} */ key) => numberWithBar(numbers[key] ?? 0, most, true);
  }

  /** @param {Tensor | undefined} tensor */
  function stripOf(tensor) {
    if (!tensor) return () => [];
    const size = commonSize(tensor.data);
    return (/** @type {number} */ key) => [strip(vectorAt(tensor, key), size, palette, names)];
  }
}

/**
 * Whether dot products are the scores divided by the scale.
 * @param {Spec} spec
 */
export function canDivide({ softcap, scale }) {
  return !softcap && scale > 0;
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
