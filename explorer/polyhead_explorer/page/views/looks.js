/** What the chosen token looks at in this head, and what looks at it: the numbers, as tables. */

import { changes } from "../changes.js";
import { h } from "../dom.js";
import { chosenPlaces, largest, matrixOf } from "../head.js";
import { colourOf, format, shareOf } from "../scale.js";

const COUNT = 8;

/** @type {import("../app.js").View} */
export const looks = {
  id: "looks",
  title: "Numbers",
  mount(root, app) {
    const hasChanged = changes();
    return (state, data) => {
      const found = data.head?.value;
      if (!found) return;
      const theme = app.theme.name;
      if (!hasChanged(found, data.token, data.partner, state.scale, theme)) return;
      const matrix = matrixOf(found);
      const places = chosenPlaces(matrix, data);
      root.replaceChildren();
      const show = shareOf(state.scale);
      for (const axis of /** @type {const} */ (["row", "column"])) {
        const place = places[axis];
        if (place < 0) {
          const isSame = !matrix.isCross && axis === "column"; // it has been said
          if (!isSame) root.append(h("p", { class: "muted" }, "The chosen token is hidden."));
          continue;
        }
        const side = axis === "row" ? matrix.rows : matrix.columns;
        const name = h("b", {}, side.labels[place] ?? "");
        const title = axis === "row" ? [name, " looks at"] : ["Looks at ", name];
        const rows = largest(matrix, place, axis, COUNT).filter(({ weight }) => weight > 0);
        root.append(
          h(
            "table",
            { class: `looks ${axis}` },
            h("caption", {}, ...title),
            h(
              "thead",
              { class: "visually-hidden" },
              h(
                "tr",
                {},
                h("th", { scope: "col" }, "Token"),
                h("th", { scope: "col" }, "Weight"),
                h("td"),
              ),
            ),
            h(
              "tbody",
              {},
              ...rows.map(({ label, weight }) => {
                const bar = h("span", { class: "bar" });
                bar.style.width = `${show(weight) * 100}%`;
                bar.style.background = colourOf(Math.max(show(weight), 0.25), theme);
                return h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, label),
                  h("td", { class: "number" }, format(weight)),
                  h("td", { class: "bars", "aria-hidden": "true" }, bar),
                );
              }),
            ),
          ),
        );
      }
    };
  },
};
