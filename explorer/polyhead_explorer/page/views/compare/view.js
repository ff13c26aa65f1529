/** The same head in this text and in another one: heat maps of all tokens, or bars of the chosen token's row. */

import { changes } from "../../changes.js";
import { button, h, setAttribute } from "../../dom.js";
import { matrixOf } from "../../head.js";
import { aboutFile } from "../../offline/answers.js";
import { otherOf } from "../../state.js";
import { decoderTextOf, isDecoders, nameOf, SAME_SECOND_TEXT } from "../../subject.js";
import { align, compare } from "./align.js";
import { DifferenceMaps } from "./maps.js";
import { largestTable, linesOf, rowTable } from "./tables.js";

const TYPING_MS = 300;
const MAX_CACHED_HEADS = 24;
const [NUM_LARGEST, MAX_LINES] = [8, 40];

/**
 * @typedef {import("../../app.js").Data} Data
 * @typedef {import("../../app.js").Reading} Reading
 * @typedef {import("../../head.js").Matrix} Matrix
 * @typedef {import("../../state.js").State} State
 * @typedef {import("./align.js").Pair} Pair
 */

/** @type {import("../../app.js").View} */
export const comparison = {
  id: "compare",
  title: "Compare texts",
  isWide: true,
  isFor: ({ isPicture }) => !isPicture && (aboutFile?.texts.length ?? 2) > 1,
  numbers({ resources }, { head }) {
    const values = [head?.value, resources.valueOf("other head")];
    return values.flatMap((value, index) => {
      if (!value) return [];
      const { rows, columns, weights } = matrixOf(value);
      const name = index ? "other_weights" : "weights";
      return { name, rows: rows.labels, columns: columns.labels, data: weights };
    });
  },
  subjects(state, { reading, isPicture }) {
    if (!reading?.value || isPicture) return [];
    return [{ ...reading.value.subject, text: otherOf(state) }];
  },
  mount(root, app) {
    let timer = 0;
    const send = () => {
      clearTimeout(timer);
      if (text.value !== otherOf(app.state)) app.set({ other: text.value.trim() && text.value });
    };
    const text = h("textarea", {
      id: "other",
      rows: 1,
      spellcheck: "false",
      readonly: Boolean(app.file),
      oninput: () => {
        clearTimeout(timer);
        timer = setTimeout(send, TYPING_MS);
      },
      onblur: send,
    });
    const swap = button("Swap", () => {
      const { text: own, attention } = app.state;
      const decoder = attention !== "encoder" && { decoderText: decoderTextOf(app.state) };
      app.set({ text: otherOf(app.state), other: own, ...decoder });
    });
    const alignment = h(
      "select",
      {
        id: "align",
        onchange: () =>
          app.set({ align: /** @type {import("../../state.js").Alignment} */ (alignment.value) }),
      },
      h("option", { value: "words" }, "equal words"),
      h("option", { value: "position" }, "their position"),
    );
    const modes = /** @type {const} */ ([
      ["map", "All tokens"],
      ["row", "The chosen token"],
    ]).map(([mode, title]) => ({ mode, element: button(title, () => app.set({ compare: mode })) }));
    const note = h("p", { class: "muted", "aria-live": "polite" });
    const maps = new DifferenceMaps(app.theme, (row) => {
      const pair = current?.rows.pairs[row];
      if (pair) app.set({ token: pair.a });
    });
    const legend = h(
      "p",
      { class: "difference-legend" },
      h("span", { class: "first" }, "more in this text"),
      h("span", { class: "legend-bar", "aria-hidden": "true" }),
      h("span", { class: "second" }, "more in the other"),
    );
    const numbers = h("div", {
      class: "steps-scroll",
      tabindex: "0",
      role: "region",
      "aria-label": "The numbers of this text and of the other",
    });
    const content = h("div", { class: "compare-content" }, maps.element, legend, numbers);
    root.append(
      h(
        "div",
        { class: "compare-choice" },
        h("label", { for: "other" }, "Compared with"),
        text,
        swap,
        h(
          "span",
          { class: "align" },
          h("label", { for: "align" }, "Tokens belong together by "),
          alignment,
        ),
        h(
          "span",
          { class: "tabs", role: "group", "aria-label": "What is compared" },
          ...modes.map(({ element }) => element),
        ),
      ),
      note,
      content,
    );

    /** @type {import("./align.js").Comparison | null} */
    let current = null;
    const hasChanged = changes();

    return (state, data) => {
      if (document.activeElement !== text) text.value = otherOf(state);
      alignment.value = state.align;
      for (const { mode, element } of modes) {
        setAttribute(element, "aria-pressed", String(mode === state.compare));
      }
      const other = needOther(state, data);
      setAttribute(content, "aria-busy", String(!other));
      if (!other) return;
      const { theme } = app;
      const { first, second, pairs, reading } = other;
      const isRow = state.compare === "row";
      if (!hasChanged(first, second, state.align, isRow, data.token, state.scale, theme.name)) {
        return;
      }
      const isGrouped = [first, second].some(
        ({ rows, columns }) => rows.isGrouped || columns.isGrouped,
      );
      current = isGrouped ? null : compare(first, second, pairs);
      note.textContent = noteOf(data.reading?.value ?? reading, reading, pairs, state);
      content.hidden = !current;
      if (!current) {
        note.textContent = "Texts of more than 1024 tokens cannot be compared token by token.";
        return;
      }
      maps.element.hidden = legend.hidden = isRow;
      if (isRow) {
        numbers.replaceChildren(rowOf(other, data));
      } else {
        const chosen = current.rows.pairs.findIndex(({ a }) => a === data.token);
        maps.show(current, chosen, state.scale);
        numbers.replaceChildren(largestTable(current, NUM_LARGEST));
      }
    };

    /**
     * Request the same head in the other text; null while something is not loaded.
     * @param {State} state
     * @param {Data} data
     */
    function needOther(state, data) {
      const { place, head } = data;
      if (!head?.isCurrent || !head.value) return null;
      const own = head.value.reading;
      const subject = { ...own.subject, text: otherOf(state) };
      const otherReading = app.resources.need("other reading", subject, async (signal) => ({
        ...(await app.source.reading(subject, signal)),
        subject,
      }));
      if (!otherReading.isCurrent || !otherReading.value) return null;
      const reading = otherReading.value;
      const columns = align(own.keys, reading.keys, state.align);
      const rows = own.isCross ? align(own.tokens, reading.tokens, state.align) : columns;
      const filter = filterOf(state, data, reading, columns);
      const otherHead = app.resources.need(
        "other head",
        { subject, place, filter },
        async (signal) => ({
          reading,
          head: await app.source.head(subject, place, filter, signal),
        }),
        { numCached: MAX_CACHED_HEADS },
      );
      if (!otherHead.isCurrent || !otherHead.value) return null;
      const [first, second] = [matrixOf(head.value), matrixOf(otherHead.value)];
      return { first, second, pairs: { rows, columns }, reading };
    }
  },
};

/**
 * Return the hidden tokens of the other text: special tokens, and partners of sinks, if the viewer
 * hides them.
 * @param {State} state
 * @param {Data} data
 * @param {Reading} reading
 * @param {Pair[]} pairs of keys
 * @returns {import("../../source.js").Filter}
 */
function filterOf(state, data, { tokens, keys, isCross }, pairs) {
  const sinks = new Set(pairs.filter(({ a }) => data.sinks.includes(a)).map(({ b }) => b));
  const hideKeys = keys.flatMap(({ is_special }, index) =>
    (state.hideSpecial && is_special) || (state.hideSinks && sinks.has(index)) ? index : [],
  );
  const ofRows = tokens.flatMap(({ is_special }, index) =>
    state.hideSpecial && is_special ? index : [],
  );
  const hide = isCross ? ofRows : hideKeys;
  const renormalise = hide.length + hideKeys.length > 0 && state.renormalise;
  return { hide, ...(isCross && { hide_keys: hideKeys }), renormalise };
}

/**
 * Return a note on the tokens that are compared.
 * @param {Reading} own
 * @param {Reading} other
 * @param {import("./align.js").Pairs} pairs
 * @param {State} state
 */
function noteOf(own, other, { columns: pairs }, { align: by }) {
  const hasPair = own.subject.text_pair !== undefined;
  const same = [
    hasPair ? `${SAME_SECOND_TEXT} ` : "",
    isDecoders(own.subject)
      ? "The encoder reads the other text, and the decoder the same one. "
      : "",
  ].join("");
  const how =
    by === "words"
      ? "Equal words belong together, the first of a word with the first, and so on"
      : "The first token belongs to the first, the second to the second, and so on";
  const [numOwn, numOther] = [own.keys.length, other.keys.length];
  const [ownAlone, otherAlone] = [numOwn - pairs.length, numOther - pairs.length];
  if (!pairs.length) return `${same}This text and the other have no word in common.`;
  return `${same}${how}: ${pairs.length} of ${hasPair ? "these" : "this text's"} ${numOwn} tokens have a partner${
    ownAlone || otherAlone ? `, and ${otherAlone} of the other's have none` : ""
  }.`;
}

/**
 * @param {{ first: Matrix, second: Matrix, pairs: import("./align.js").Pairs }} other
 * @param {Data} data
 */
function rowOf({ first, second, pairs }, { token, reading }) {
  const name = h("b", { class: "query" }, nameOf(reading?.value?.tokens[token]));
  const pair = pairs.rows.find(({ a }) => a === token);
  const shownPair =
    pair && first.rows.tokens.includes(pair.a) && second.rows.tokens.includes(pair.b) ? pair : null;
  if (!shownPair) {
    const reason = pair ? " is hidden." : " has no partner in the other text: choose another.";
    return h("p", { class: "muted" }, name, reason);
  }
  const lines = linesOf(first, second, pairs.columns, shownPair);
  if (lines.length <= MAX_LINES) return rowTable(lines, name);
  const weightOf = (/** @type {import("./tables.js").Line} */ line) =>
    Math.max(line.first ?? 0, line.second ?? 0);
  const largest = new Set([...lines].sort((a, b) => weightOf(b) - weightOf(a)).slice(0, MAX_LINES));
  return h(
    "div",
    {},
    rowTable(
      lines.filter((line) => largest.has(line)),
      name,
    ),
    h("p", { class: "muted" }, `The ${MAX_LINES} keys with the largest weights.`),
  );
}
