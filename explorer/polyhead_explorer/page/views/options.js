/** The options of all views: the colour scale, and which tokens are hidden. */

import { changes } from "../changes.js";
import { checkbox, h } from "../dom.js";
import { colourOf, SCALE_TITLES, shareOf, TICKS } from "../scale.js";
import { nameOf } from "../subject.js";

const NUM_STOPS = 24;
const MIN_TICK_DISTANCE = 0.09;

/** @type {import("../app.js").View} */
export const options = {
  id: "options",
  title: "How weights are shown",
  mount(root, app) {
    const scale = h(
      "select",
      {
        id: "scale",
        onchange: () =>
          app.set({ scale: /** @type {import("../state.js").Scale} */ (scale.value) }),
      },
      ...Object.entries(SCALE_TITLES).map(([value, title]) => h("option", { value }, title)),
    );
    const bar = h("div", { class: "legend-bar" });
    const ticks = h("div", { class: "legend-ticks" });
    const special = checkbox("Hide special tokens", (hideSpecial) => app.set({ hideSpecial }));
    const sinks = checkbox("Hide sinks", (hideSinks) => app.set({ hideSinks }), {
      title: "Tokens that get more than a quarter of all attention, in the mean of all heads",
    });
    const renormalise = checkbox("Rescale the rest to 1", (on) => app.set({ renormalise: on }));
    const note = h("p", { class: "muted", "aria-live": "polite" });
    root.append(
      h(
        "div",
        { class: "legend" },
        h("label", { for: "scale" }, "Colours"),
        scale,
        h("div", { class: "legend-scale", "aria-hidden": "true" }, bar, ticks),
      ),
      special.element,
      sinks.element,
      renormalise.element,
      note,
    );

    const hasChanged = changes();
    return (state, data) => {
      scale.value = state.scale;
      special.input.checked = state.hideSpecial;
      sinks.input.checked = state.hideSinks;
      const { tokens = [], keys = [] } = data.reading?.value ?? {};
      const hasSpecial = [...tokens, ...keys].some(({ is_special }) => is_special);
      special.input.disabled = !state.hideSpecial && !hasSpecial;
      renormalise.input.checked = state.renormalise;
      renormalise.input.disabled = !state.hideSpecial && !state.hideSinks;
      note.textContent = [noteOf(state, data), groupNote(data)].filter(Boolean).join(" ");
      const theme = app.theme.name;
      if (hasChanged(state.scale, theme)) draw(bar, ticks, state.scale, theme);
    };
  },
};

/**
 * Return a note on the hidden tokens, and on the rest of the rows.
 * @param {import("../state.js").State} state
 * @param {import("../app.js").Data} data
 */
function noteOf(state, { reading, hidden, hiddenKeys, sinks, maps }) {
  if (!state.hideSpecial && !state.hideSinks) return "";
  if (state.hideSinks && maps?.isLoading && !sinks.length)
    return "Sinks are hidden when all layers have run, because they are not known before.";
  if (!hidden.length && !hiddenKeys.length) return "There are none to hide.";
  const { tokens = [], keys = [], isCross = false } = reading?.value ?? {};
  const namesOf = (/** @type {number[]} */ indices, /** @type {typeof keys} */ all) =>
    indices.map((index) => nameOf(all[index])).join(", ") || "none";
  const names = isCross
    ? `${namesOf(hidden, tokens)} among the rows and ${namesOf(hiddenKeys, keys)} among the columns`
    : namesOf(hiddenKeys, keys);
  return state.renormalise
    ? `Without ${names}. What is left of each row is rescaled to sum to 1.`
    : `Without ${names}. Rows sum to less than 1.`;
}

/**
 * Return a note on groups, if the text has more tokens than a picture has rows.
 * @param {import("../app.js").Data} data
 */
function groupNote({ head }) {
  const loaded = head?.value?.head;
  if (!loaded) return "";
  const sizes = [loaded.rows, loaded.keys].map(({ kept, starts }) => kept.length / starts.length);
  const maxTokens = Math.ceil(Math.max(...sizes));
  if (maxTokens <= 1) return "";
  return (
    `Each row and column is a group of up to ${maxTokens} tokens, named by its first. ` +
    "A weight is the largest between two groups."
  );
}

/**
 * @param {HTMLElement} bar
 * @param {HTMLElement} ticks
 * @param {import("../state.js").Scale} scale
 * @param {"dark" | "light"} theme
 */
function draw(bar, ticks, scale, theme) {
  const stops = Array.from({ length: NUM_STOPS }, (_, n) => colourOf(n / (NUM_STOPS - 1), theme));
  bar.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  const share = shareOf(scale);
  let last = -1;
  ticks.replaceChildren();
  for (const weight of TICKS) {
    const place = share(weight);
    const isCrowded = place - last < MIN_TICK_DISTANCE || 1 - place < MIN_TICK_DISTANCE;
    if (isCrowded && weight !== 1) continue;
    last = place;
    const tick = h("span", {}, String(weight).replace(/^0\./, "."));
    tick.style.left = `${place * 100}%`;
    ticks.append(tick);
  }
}
