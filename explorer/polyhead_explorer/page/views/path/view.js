/** The view of the chosen token's path through the layers, in a plane. */

import { changes } from "../../changes.js";
import { button, checkbox, h, setAttribute } from "../../dom.js";
import { canAnswer } from "../../offline/answers.js";
import { otherOf } from "../../state.js";
import { nameOf } from "../../subject.js";
import { align } from "../compare/align.js";
import { anchorField } from "./anchor.js";
import { noteOf, percent } from "./notes.js";
import { PathPlane } from "./plane.js";
import { pathTable, stepName } from "./table.js";

const MAX_CACHED_PATHS = 8;
/** Most tokens of a text whose paths an offline file has; of longer texts, it has the chosen one. */
const MAX_SAVED = 64;

/**
 * @typedef {import("../../app.js").Data} Data
 * @typedef {import("../../app.js").Reading} Reading
 * @typedef {import("../../source.js").Path} Path
 * @typedef {import("../../source.js").PathOptions} PathOptions
 * @typedef {import("../../state.js").State} State
 * @typedef {{ reading: Reading, query: number, numSteps: number, path: Path | null }} LoadedPath
 */

/** @type {import("../../app.js").View} */
export const path = {
  id: "path",
  title: "A word's path",
  isWide: true,
  isFor: () => canAnswer("path"),
  numbers({ resources }) {
    /** @type {LoadedPath | undefined} */
    const loaded = resources.valueOf("path");
    if (!loaded?.path) return [];
    const { points, tokens, turned } = loaded.path;
    const { layers, tokens: all } = loaded.reading;
    const rows = Array.from(turned, (_, step) => stepName(step, layers));
    const columns = tokens.map((token) => nameOf(all[token]));
    const axes = ["axis_1", "axis_2"].map((name, axis) => ({
      name,
      rows,
      columns,
      data: points.data.filter((_, at) => at % 2 === axis),
    }));
    return [...axes, { name: "turned_by", rows, columns: ["turned_by"], data: turned }];
  },
  questions(_, { reading, token }) {
    if (!reading?.value) return [];
    const { subject, tokens } = reading.value;
    const queries = tokens.length <= MAX_SAVED ? [...tokens.keys()] : [token];
    const words = { anchor_x: null, anchor_y: null, other: null, other_query: null };
    return [
      ...queries.map((query) => ({ query, of_path: false })),
      { query: token, of_path: true },
    ].map((options) => ({ name: "path", body: { ...subject, ...options, ...words } }));
  },
  heading({ reading, token }) {
    return `How “${nameOf(reading?.value?.tokens[token])}” moves`;
  },
  mount(root, app) {
    const nearness = h("option", { value: "anchors" }, "nearness to two words");
    const plane = h(
      "select",
      {
        id: "plane",
        onchange: () => app.set({ plane: /** @type {State["plane"]} */ (plane.value) }),
      },
      h("option", { value: "pca" }, "principal components of all tokens"),
      h("option", { value: "word" }, "principal components of the path"),
      nearness,
    );
    const anchors = /** @type {const} */ (["anchorX", "anchorY"]).map((name) =>
      anchorField(app, name),
    );
    const words = h(
      "span",
      { class: "anchors" },
      ...anchors.flatMap(({ element }, index) => [index ? " and " : "", element]),
    );
    const both = checkbox("and in the other text", (bothPaths) => app.set({ bothPaths }));
    const note = h("p", { class: "muted", "aria-live": "polite" });
    const status = h("span", { class: "muted" });
    const stop = button("Stop", () => app.resources.stop("path"));
    const repeat = button("Go on", () => app.resources.repeatFailed());
    const slider = h("input", {
      id: "step",
      type: "range",
      min: 0,
      oninput: () => go(Number(slider.value)),
    });
    const at = h("output", { for: "step" });
    const map = new PathPlane(app.theme, (change) => go(current + change));
    const numbers = h("div", {
      class: "steps-scroll",
      tabindex: "0",
      role: "region",
      "aria-label": "The numbers of each step",
    });
    const content = h(
      "div",
      { class: "path-content" },
      h(
        "div",
        { class: "path-plane" },
        map.element,
        h("div", { class: "path-step" }, h("label", { for: "step" }, "Up to"), slider, at),
      ),
      numbers,
    );
    root.append(
      h(
        "div",
        { class: "compare-choice" },
        h("span", { class: "align" }, h("label", { for: "plane" }, "In a plane of "), plane),
        words,
        both.element,
        h("span", { class: "progress" }, status, stop, repeat),
      ),
      note,
      content,
    );

    let current = 0;
    let last = 0;
    const hasChanged = changes();

    return (chosen, data) => {
      // pictures have no words, and are not compared
      const state = data.isPicture ? withoutWords(chosen) : chosen;
      nearness.hidden = both.element.hidden = data.isPicture;
      plane.value = state.plane;
      words.hidden = state.plane !== "anchors";
      for (const { show } of anchors) show(state);
      both.input.checked = state.bothPaths;
      const resource = needPath(state, data);
      const value = resource?.isCurrent ? resource.value : undefined;
      const isReady = Boolean(value?.path);
      setAttribute(content, "aria-busy", String(!isReady));
      stop.hidden = !resource?.isLoading;
      repeat.hidden = !resource?.isStopped;
      const numSteps = (data.reading?.value?.layers.length ?? 0) + 1;
      status.textContent =
        resource && (resource.isLoading || resource.isStopped)
          ? `${value?.numSteps ?? 0} of ${numSteps} steps`
          : "";
      if (!value?.path) return;
      last = numSteps - 1;
      current = state.step < 0 || state.step > last ? last : state.step;
      slider.max = String(last);
      slider.value = String(current);
      if (hasChanged(value, current, data.hidden.join(), app.theme.name)) {
        show(value, state, data.hidden);
      }
    };

    /**
     * @param {LoadedPath} loaded
     * @param {State} state
     * @param {number[]} hidden
     */
    function show({ reading, query, path: drawn }, state, hidden) {
      if (!drawn) return;
      const name = stepName(current, reading.layers);
      at.textContent = name;
      slider.setAttribute("aria-valuetext", name);
      const place = drawn.tokens.indexOf(query);
      const labels = drawn.tokens.map((token) =>
        hidden.includes(token) && token !== query ? "" : nameOf(reading.tokens[token]),
      );
      const isAnchored = !drawn.shares.length;
      /** @type {[string, string]} */
      const axes = isAnchored
        ? [state.anchorX, state.anchorY]
        : [`axis 1, ${percent(drawn.shares[0])}`, `axis 2, ${percent(drawn.shares[1])}`];
      /** @type {[string, string]} */
      const short = isAnchored ? axes : ["axis 1", "axis 2"];
      const isClose = state.plane === "word";
      map.show({ path: drawn, place, labels, axes, step: current, isAnchored, isClose });
      const near = drawn.nearest[current] ?? -1;
      map.readout.textContent =
        near < 0 ? name : `${name}: nearest to ${nameOf(reading.tokens[near])}`;
      note.textContent = noteOf(drawn, reading, state);
      const isFocused = numbers.contains(document.activeElement);
      numbers.replaceChildren(pathTable(drawn, reading, place, short, current, go));
      const pressed = numbers.querySelector("[aria-pressed=true]");
      if (isFocused && pressed instanceof HTMLElement) pressed.focus();
    }

    /** @param {number} step */
    function go(step) {
      const next = Math.min(Math.max(step, 0), last);
      app.set({ step: next === last ? -1 : next });
    }

    /**
     * @param {State} state
     * @param {Data} data
     */
    function needPath(state, data) {
      const reading = data.reading?.isCurrent ? data.reading.value : null;
      const query = data.token;
      if (!reading || query < 0) return null;
      const { subject } = reading;
      const other = state.bothPaths ? needOther(state, reading, query) : null;
      if (state.bothPaths && !other) return null;
      const isAnchored = state.plane === "anchors";
      /** @type {PathOptions} */
      const options = {
        query,
        of_path: state.plane === "word",
        anchor_x: isAnchored ? state.anchorX : null,
        anchor_y: isAnchored ? state.anchorY : null,
        other: other && other.query >= 0 ? other.text : null,
        other_query: other && other.query >= 0 ? other.query : null,
      };
      return app.resources.need(
        "path",
        { subject, options },
        async (signal, publish) => {
          /** @type {LoadedPath} */
          let loaded = { reading, query, numSteps: 0, path: null };
          for await (const part of app.source.path(subject, options, signal)) {
            loaded =
              typeof part === "number" ? { ...loaded, numSteps: part } : { ...loaded, path: part };
            publish(loaded);
          }
          return loaded;
        },
        { numCached: MAX_CACHED_PATHS },
      );
    }

    /**
     * Return the token's partner in the other text, -1 if it has none; null while not loaded.
     * @param {State} state
     * @param {Reading} reading
     * @param {number} query
     */
    function needOther(state, reading, query) {
      const text = otherOf(state);
      const subject = { ...reading.subject, text };
      const other = app.resources.need("other reading", subject, async (signal) => ({
        ...(await app.source.reading(subject, signal)),
        subject,
      }));
      if (!other.isCurrent || !other.value) return null;
      const pairs = align(reading.tokens, other.value.tokens, "words");
      return { text, query: pairs.find(({ a }) => a === query)?.b ?? -1 };
    }
  },
};

/**
 * @param {State} state
 * @returns {State}
 */
function withoutWords(state) {
  return { ...state, bothPaths: false, plane: state.plane === "anchors" ? "pca" : state.plane };
}
