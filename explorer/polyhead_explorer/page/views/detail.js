/** The panel of one head, in the view that the viewer chose. */

import { button, h, setAttribute } from "../dom.js";
import { comparison } from "./compare/view.js";
import { largestWeights } from "./largest_weights.js";
import { lines } from "./lines.js";
import { map } from "./map.js";
import { path } from "./path/view.js";
import { picture } from "./picture.js";
import { steps } from "./steps/view.js";

/** The views of one head, in the order of their tabs. @type {import("../app.js").View[]} */
export const VIEWS = [picture, lines, map, steps, comparison, path];

/**
 * Return the chosen view, or else the first one that can show the data.
 * @param {import("../state.js").State} state
 * @param {import("../app.js").Data} data
 */
export function chosenView(state, data) {
  const usable = VIEWS.filter(({ isFor }) => isFor?.(data) ?? true);
  return usable.find(({ id }) => id === state.view) ?? usable[0] ?? lines;
}

/** @type {import("../app.js").View} */
export const detail = {
  id: "detail",
  title: "One head",
  mount(root, app) {
    const heading = h("h2", {}, "One head");
    const tabs = VIEWS.map(({ id, title }) =>
      button(title, () => app.set({ view: id }), {
        id: `tab-${id}`,
        role: "tab",
        "aria-controls": `view-${id}`,
      }),
    );
    const tabList = h("div", { class: "tabs", role: "tablist", "aria-label": "Views" }, ...tabs);
    tabList.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const visible = tabs.filter(({ hidden }) => !hidden);
      const place = visible.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
      if (!step || place < 0) return;
      const next = visible[(place + step + visible.length) % visible.length];
      next?.focus();
      next?.click();
    });
    const stages = VIEWS.map(({ id }) =>
      h("div", {
        class: "stage",
        id: `view-${id}`,
        role: "tabpanel",
        "aria-labelledby": `tab-${id}`,
      }),
    );
    const beside = h("div", { class: "beside" });
    root.append(
      h("div", { class: "card-head" }, heading, tabList),
      h("div", { class: "stages" }, ...stages, beside),
    );
    /** @type {Map<string, ReturnType<import("../app.js").View["mount"]>>} */
    const mounted = new Map();
    const updateNumbers = largestWeights.mount(beside, app);

    return (state, data) => {
      const { layer, head } = data.place;
      const name = data.reading?.value?.layers[layer]?.name ?? layer;
      const isBusy = !data.head?.isCurrent;
      root.classList.toggle("stale", isBusy);
      setAttribute(root, "aria-busy", String(isBusy));
      const chosen = chosenView(state, data);
      heading.textContent = chosen.heading?.(data) ?? `Layer ${name}, head ${head}`;
      VIEWS.forEach((view, index) => {
        const [tab, stage] = [tabs[index], stages[index]];
        if (!tab || !stage) return;
        const isChosen = view === chosen;
        tab.hidden = !(view.isFor?.(data) ?? true);
        setAttribute(tab, "aria-selected", String(isChosen));
        setAttribute(tab, "tabindex", isChosen ? 0 : -1);
        stage.hidden = !isChosen;
        if (!isChosen) return;
        let update = mounted.get(view.id);
        if (!update) mounted.set(view.id, (update = view.mount(stage, app)));
        update(state, data);
      });
      beside.hidden = Boolean(chosen.isWide);
      root.classList.toggle("wide", beside.hidden);
      if (!beside.hidden) updateNumbers(state, data);
    };
  },
};
