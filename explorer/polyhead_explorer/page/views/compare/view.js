/** Two texts in the same head: as heat maps with their difference, or one row as bars. */

import { changes } from "../../changes.js";
import { button, h, setAttribute } from "../../dom.js";
import { matrixOf } from "../../head.js";
import { aboutFile } from "../../offline/answers.js";
import { otherOf } from "../../state.js";
import { align, compare } from "./align.js";
import { DifferenceMaps } from "./maps.js";
import { largestTable, linesOf, rowTable } from "./tables.js";

const TYPING_MS = 300;
const KEPT = 24;
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
  title: "Two texts",
  isWide: true,
  isFor: ({ isPicture }) => !isPicture && (aboutFile?.texts.length ?? 2) > 1,
  numbers({ resources }, { head }) {
    const values = [head?.value, resources.valueOf("other head")];
    return values.flatMap((value, index) => {
      if (!value) return [];
      const { labels, weights } = matrixOf(value);
      const name = index ? "other_weights" : "weights";
      return { name, rows: labels, columns: labels, data: weights };
    });
  },
  subjects(state, { model, isPicture }) {
    if (!model || isPicture) return [];
    return [{ model: model.name, version: model.version, text: otherOf(state) }];
  },
  mount(root, app) {
    let timer = 0;
    const send = () => {
      clearTimeout(timer);
      if (text.value !== otherOf(app.state)) app.set({ other: text.value });
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
    const swap = button("Swap", () => app.set({ text: otherOf(app.state), other: app.state.text }));
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
      const pair = shown?.pairs[row];
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
      "aria-label": "The numbers of both texts",
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
    let shown = null;
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
      const isGrouped = first.isGrouped || second.isGrouped;
      shown = isGrouped ? null : compare(first, second, pairs);
      note.textContent = noteOf(data.reading?.value?.tokens ?? [], reading.tokens, pairs, state);
      content.hidden = !shown;
      if (!shown) {
        note.textContent = "Texts of more than 1024 tokens cannot be compared token by token.";
        return;
      }
      maps.element.hidden = legend.hidden = isRow;
      if (isRow) {
        numbers.replaceChildren(rowOf(other, data));
      } else {
        const chosen = shown.pairs.findIndex(({ a }) => a === data.token);
        maps.show(shown, chosen, state.scale);
        numbers.replaceChildren(largestTable(shown, NUM_LARGEST));
      }
    };

    /**
     * Ask for the other text in the same head; null: something is still missing.
     * @param {State} state
     * @param {Data} data
     */
    function needOther(state, data) {
      const { place, model, head } = data;
      if (!model || !head?.isCurrent || !head.value) return null;
      const subject = { model: model.name, version: model.version, text: otherOf(state) };
      const read = app.resources.need("other reading", subject, async (signal) => ({
        ...(await app.source.reading(subject, signal)),
        subject,
      }));
      if (!read.isCurrent || !read.value) return null;
      const reading = read.value;
      const own = head.value.reading;
      const pairs = align(own.tokens, reading.tokens, state.align);
      const hide = hiddenOf(state, data, reading, pairs);
      const options = { hide, renormalise: hide.length > 0 && state.renormalise };
      const found = app.resources.need(
        "other head",
        { subject, place, options },
        async (signal) => ({
          reading,
          head: await app.source.head(subject, place, options, signal),
        }),
        { keep: KEPT },
      );
      if (!found.isCurrent || !found.value) return null;
      return { first: matrixOf(head.value), second: matrixOf(found.value), pairs, reading };
    }
  },
};

/**
 * Hide the other text's special tokens if the viewer wants that, and the partners of sinks.
 * @param {State} state
 * @param {Data} data
 * @param {Reading} reading
 * @param {Pair[]} pairs
 */
function hiddenOf(state, data, { tokens }, pairs) {
  const sinks = new Set(pairs.filter(({ a }) => data.sinks.includes(a)).map(({ b }) => b));
  return tokens.flatMap(({ is_special }, index) =>
    (state.hideSpecial && is_special) || (state.hideSinks && sinks.has(index)) ? index : [],
  );
}

/**
 * Say which tokens are compared.
 * @param {import("../../app.js").Token[]} own
 * @param {import("../../app.js").Token[]} others
 * @param {Pair[]} pairs
 * @param {State} state
 */
function noteOf(own, others, pairs, { align: by }) {
  const how =
    by === "words"
      ? "Equal words belong together, the first of a word with the first, and so on"
      : "The first token belongs to the first, the second to the second, and so on";
  const [ownAlone, otherAlone] = [own.length - pairs.length, others.length - pairs.length];
  if (!pairs.length) return "The two texts have no word in common.";
  return `${how}: ${pairs.length} of this text's ${own.length} tokens have a partner${
    ownAlone || otherAlone ? `, and ${otherAlone} of the other's have none` : ""
  }.`;
}

/**
 * @param {{ first: Matrix, second: Matrix, pairs: Pair[] }} other
 * @param {Data} data
 */
function rowOf({ first, second, pairs }, { token, reading }) {
  const name = h("b", { class: "query" }, reading?.value?.tokens[token]?.text ?? "");
  const pair = pairs.find(({ a }) => a === token);
  const isShown =
    pair && first.tokens.includes(pair.a) && second.tokens.includes(pair.b) ? pair : null;
  if (!isShown) {
    const reason = pair ? " is hidden." : " has no partner in the other text: choose another.";
    return h("p", { class: "muted" }, name, reason);
  }
  const lines = linesOf(first, second, pairs, isShown);
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
