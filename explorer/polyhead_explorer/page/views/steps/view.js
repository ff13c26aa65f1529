/** One row of one head, step by step, from the query and the keys to the context. */

import { changes } from "../../changes.js";
import { button, h } from "../../dom.js";
import { canAnswer } from "../../offline/answers.js";
import { largestOf, numberWithBar, signed, strip, vectorAt } from "../../strip.js";
import { nameOf } from "../../subject.js";
import { notes } from "./notes.js";
import { formula, stepNumber, stepsTable, sub } from "./table.js";

const MAX_ROWS = 24;
/** Most tokens of a text whose rows an offline file has; of longer texts, it has the chosen one. */
const MAX_SAVED = 64;
const MAX_CACHED_ROWS = 24;

/**
 * @typedef {import("../../source.js").Row} Row
 * @typedef {import("../../source.js").Vectors} Vectors
 * @typedef {import("../../app.js").Reading} Reading
 * @typedef {{ reading: Reading, query: number, row: Row }} LoadedRow
 */

/** @type {import("../../app.js").View} */
export const steps = {
  id: "steps",
  title: "Step by step",
  isWide: true,
  isFor: () => canAnswer("row"),
  numbers({ resources }) {
    /** @type {LoadedRow | undefined} */
    const loaded = resources.valueOf("row");
    if (!loaded) return [];
    const { row, reading, query } = loaded;
    const stages = /** @type {const} */ (["scores", "masked", "weights"]);
    return [
      {
        name: "row",
        rows: stages.map((stage) => `${nameOf(reading.tokens[query])}, ${stage}`),
        columns: reading.keys.map(nameOf),
        data: Float32Array.from(stages.flatMap((stage) => [...row[stage]])),
      },
    ];
  },
  questions(_, { reading, place, token }) {
    if (!reading?.value) return [];
    const { subject, tokens } = reading.value;
    const rows = tokens.length <= MAX_SAVED ? [...tokens.keys()] : [token];
    return rows.flatMap((query) =>
      ["row", "vectors"].map((name) => ({ name, body: { ...subject, ...place, query } })),
    );
  },
  mount(root, app) {
    let isLong = false;
    const body = h("div", { class: "steps" });
    root.append(body);
    const hasChanged = changes();

    return (_, data) => {
      const reading = data.reading?.isCurrent ? data.reading.value : null;
      if (!reading || data.token < 0) return;
      const { place, token: query } = data;
      const { subject } = reading;
      const key = { subject, place, query };
      const options = { numCached: MAX_CACHED_ROWS };
      const { source, resources } = app;
      const loadRow = async (/** @type {AbortSignal} */ signal) => ({
        reading,
        query,
        row: await source.row(subject, place, query, signal),
      });
      const row = resources.need("row", key, loadRow, options);
      const vectors = resources.need(
        "vectors",
        key,
        (signal) => source.vectors(subject, place, query, signal),
        options,
      );
      body.setAttribute("aria-busy", String(!row.isCurrent || !vectors.isCurrent));
      const loaded = vectors.isCurrent ? vectors.value : undefined;
      const hasHidden = data.hidden.length + data.hiddenKeys.length > 0;
      if (!row.isCurrent || !(loaded || vectors.error)) return;
      if (!row.value || !hasChanged(row.value, loaded, isLong, hasHidden, app.theme.name)) return;
      const isFocused = body.contains(document.activeElement);
      body.replaceChildren(...parts(row.value, loaded, hasHidden));
      if (isFocused) body.querySelector("button")?.focus();
    };

    /**
     * @param {LoadedRow} loaded
     * @param {Vectors | undefined} vectors
     * @param {boolean} hasHidden
     */
    function parts({ reading, query, row }, vectors, hasHidden) {
      const palette = app.theme.palette();
      const name = nameOf(reading.tokens[query]);
      const numKeys = row.weights.length;
      const keys = isLong ? [...row.weights.keys()] : strongest(row.weights, MAX_ROWS);
      const scroller = h(
        "div",
        {
          class: "steps-scroll",
          tabindex: "0",
          role: "region",
          "aria-label": "Steps 2 to 7: a row for each key",
        },
        stepsTable(reading, keys, query, row, vectors, palette),
      );
      const sections = [
        h(
          "section",
          { class: "step" },
          h("h3", {}, stepNumber(1), "Query ", formula("q = W", sub("q"), " x")),
          ...(vectors ? vector("entering", query, [token(name), " enters as x"]) : ["…"]),
          ...(vectors?.arrays.query ? vector("query", 0, ["This head's query q"]) : []),
        ),
        scroller,
      ];
      if (numKeys > MAX_ROWS) sections.push(more(numKeys));
      sections.push(
        h(
          "section",
          { class: "step" },
          h("h3", {}, stepNumber(8), "Output ", formula("z = Σ w · v")),
          ...(vectors ? output() : ["…"]),
        ),
        notes(row, vectors, { hasHidden, isCross: reading.isCross }),
      );
      return sections;

      function output() {
        if (!vectors || vectors.reason) return [h("p", { class: "muted" }, vectors?.reason ?? "")];
        const { context_length, all_contexts_length, attended } = vectors.arrays;
        const [own, all] = [context_length, all_contexts_length].map((t) =>
          signed(t?.data[0] ?? 0),
        );
        const lengths = `Its length is ${own}, that of all heads side by side ${all}.`;
        const added = [
          "The output of all heads, projected by W",
          sub("o"),
          ", which is added to ",
          token(name),
        ];
        return [
          ...vector("context", 0, ["This head's context z"]),
          h("p", { class: "muted" }, lengths),
          ...(attended ? vector("attended", 0, added) : []),
        ];
      }

      /**
       * @param {string} array
       * @param {number} index
       * @param {(Node | string)[]} caption
       */
      function vector(array, index, caption) {
        const numbers = vectorAt(vectors?.arrays[array], index);
        const width = vectors?.sizes[array] ?? 0;
        const isNamed = array === "entering" || array === "attended";
        const dimensions = (isNamed && vectors?.dimensions) || [];
        const size = largestOf(numbers);
        return [
          h("p", { class: "muted" }, ...caption, `: ${count(numbers.length, width)}`),
          dimensions.length ? named(dimensions, numbers, size) : strip(numbers, size, palette, []),
        ];
      }
    }

    /** @param {number} numKeys */
    function more(numKeys) {
      const toggle = button(isLong ? `The largest ${MAX_ROWS}` : `All ${numKeys} keys`, () => {
        isLong = !isLong;
        app.refresh();
      });
      const shown = isLong ? "" : `The ${MAX_ROWS} keys with the largest weights. `;
      return h("p", { class: "muted" }, shown, toggle);
    }
  },
};

/** @param {string} name */
function token(name) {
  return h("b", { class: "query" }, name);
}

/**
 * @param {string[]} dimensions
 * @param {ArrayLike<number>} numbers
 * @param {number} size
 */
function named(dimensions, numbers, size) {
  const items = dimensions.map((dimension, at) =>
    h("li", {}, h("span", {}, dimension), ...numberWithBar(numbers[at] ?? 0, size, true)),
  );
  return h("ul", { class: "named" }, ...items);
}

/**
 * @param {number} shown
 * @param {number} width
 */
function count(shown, width) {
  return shown < width ? `the first ${shown} of ${width} numbers` : `${width} numbers`;
}

/**
 * Return the keys with the largest weights, in the order of the text.
 * @param {Float32Array} weights
 * @param {number} numKeys
 */
function strongest(weights, numKeys) {
  const keys = [...weights.keys()];
  if (keys.length <= numKeys) return keys;
  return keys
    .sort((a, b) => (weights[b] ?? 0) - (weights[a] ?? 0))
    .slice(0, numKeys)
    .sort((a, b) => a - b);
}
