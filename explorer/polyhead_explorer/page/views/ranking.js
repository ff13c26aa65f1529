/** The heads in the order of a measure. A press on a head shows it. */

import { button, checkbox, h, setAttribute } from "../dom.js";
import { meaningOf, MEASURES, measuresOf, sorted } from "../measures.js";
import { colourOf, format, shareOf } from "../scale.js";
import { nameOf } from "../subject.js";

const COUNT = 8;

/**
 * @typedef {import("../app.js").Data} Data
 * @typedef {import("../state.js").Measure} Measure
 */

/** @type {import("../app.js").View} */
export const ranking = {
  id: "ranking",
  title: "Heads by what they do",
  mount(root, app) {
    let isLong = false;
    const measure = h("select", {
      id: "measure",
      onchange: () => app.set({ measure: /** @type {Measure} */ (measure.value) }),
    });
    const from = h("b", { class: "query" });
    const to = h("select", {
      id: "pair-key",
      onchange: () => app.set({ pairKey: Number(to.value) }),
    });
    const pair = h(
      "span",
      { class: "pair" },
      "from ",
      from,
      h("label", { for: "pair-key" }, " to "),
      to,
    );
    const inGrid = checkbox("Show in the grid", (isOn) => app.set({ gridMeasure: isOn }));
    const meaning = h("p", { class: "muted" });
    const status = h("span", { class: "muted", "aria-live": "polite" });
    /** @type {Data["ranking"]} */
    let current = null;
    const stop = button("Stop", () => {
      if (current) app.resources.stop(current.resource);
    });
    const repeat = button("Go on", () => app.resources.repeatFailed());
    const body = h("tbody");
    const more = button("", () => {
      isLong = !isLong;
      app.refresh();
    });
    root.append(
      h(
        "div",
        { class: "card-head" },
        h("h2", {}, "Heads by what they do"),
        h("div", { class: "progress" }, status, stop, repeat),
      ),
      h(
        "div",
        { class: "ranking-choice" },
        h("label", { for: "measure" }, "They look at"),
        measure,
        pair,
        inGrid.element,
      ),
      meaning,
      h(
        "table",
        { class: "largest-weights ranked" },
        h("caption", { class: "visually-hidden" }, "Heads, the largest number first"),
        h(
          "thead",
          { class: "visually-hidden" },
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "Head"),
            h("th", { scope: "col" }, "Weight"),
            h("td"),
          ),
        ),
        body,
      ),
      more,
    );
    body.addEventListener("keydown", moveFocus);

    let painted = "";
    return (state, data) => {
      const reading = data.reading?.value;
      current = data.ranking;
      root.hidden = !reading;
      root.classList.toggle("stale", !data.reading?.isCurrent);
      if (!reading || !current) return;
      const measures = measuresOf(reading.isCross);
      if (measure.options.length !== measures.length) {
        measure.replaceChildren(
          ...measures.map((value) => h("option", { value }, MEASURES[value].title)),
        );
      }
      measure.value = current.measure;
      inGrid.input.checked = state.gridMeasure;
      const isPair = current.measure === "pair";
      pair.hidden = !isPair;
      meaning.textContent = noteOf(reading, data, current.measure);
      if (isPair) showPair(reading, data);

      setAttribute(root, "aria-busy", String(current.isLoading || !current.numKnown));
      stop.hidden = !current.isLoading;
      repeat.hidden = !current.isStopped;
      status.textContent =
        current.isLoading || current.isStopped
          ? `${current.numKnown} of ${reading.layers.length} layers`
          : "";
      const { layer: atLayer, head: atHead } = data.place;
      const heads = sorted(current);
      const key = JSON.stringify([heads, atLayer, atHead, isLong, state.scale, app.theme.name]);
      if (key === painted) return;
      painted = key;
      const share = shareOf(state.scale);
      const focused = body.contains(document.activeElement);
      body.replaceChildren(
        ...heads.slice(0, isLong ? heads.length : COUNT).map(({ layer, head, value }) => {
          const isChosen = layer === atLayer && head === atHead;
          const bar = h("span", { class: "bar" });
          bar.style.width = `${share(value) * 100}%`;
          bar.style.background = colourOf(Math.max(share(value), 0.25), app.theme.name);
          const name = `Layer ${reading.layers[layer]?.name ?? layer}, head ${head}`;
          const link = button(name, () => app.set({ layer, head }), {
            class: "link",
            "aria-pressed": String(isChosen),
          });
          return h(
            "tr",
            { class: isChosen ? "chosen" : "" },
            h("th", { scope: "row" }, link),
            h("td", { class: "number" }, format(value)),
            h("td", { class: "bars", "aria-hidden": "true" }, bar),
          );
        }),
      );
      const chosen = body.querySelector(".chosen button");
      if (focused && chosen instanceof HTMLElement) chosen.focus();
      more.hidden = heads.length <= COUNT;
      more.textContent = isLong ? `The first ${COUNT}` : `All ${heads.length}`;
    };

    /**
     * @param {import("../app.js").Reading} reading
     * @param {Data} data
     */
    function showPair({ tokens, keys }, data) {
      from.textContent = nameOf(tokens[data.token]);
      const options = JSON.stringify(keys);
      if (to.dataset.options !== options) {
        to.replaceChildren(
          ...keys.map((key, index) => h("option", { value: index }, `${nameOf(key)} (${index})`)),
        );
        to.dataset.options = options;
      }
      to.value = String(data.partner);
    }
  },
};

/**
 * Return a note on the meaning of the numbers.
 * @param {import("../app.js").Reading} reading
 * @param {Data} data
 * @param {Measure} measure
 */
function noteOf({ isCross, is_causal }, data, measure) {
  const { hidden, hiddenKeys, token, partner, ranking: current } = data;
  if (measure === "pair" && current?.numKnown === 0 && !current.isLoading) {
    return "One of the two tokens is hidden.";
  }
  const isLater = measure === "next" || (measure === "pair" && partner > token);
  const parts = [
    meaningOf(measure, isCross),
    hidden.length || hiddenKeys.length ? "Hidden tokens do not count." : "",
    is_causal && isLater ? "In this model no token sees a later one." : "",
  ];
  return parts.filter(Boolean).join(" ");
}

/** @param {KeyboardEvent} event */
function moveFocus(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const body = /** @type {HTMLElement} */ (event.currentTarget);
  const buttons = [...body.querySelectorAll("button")];
  const next = step && buttons[buttons.indexOf(/** @type {any} */ (event.target)) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
}
