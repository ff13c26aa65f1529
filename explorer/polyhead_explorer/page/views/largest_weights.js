/** Tables of the largest weights in the chosen token's row and column of a head. */

import { changes } from "../changes.js";
import { h } from "../dom.js";
import { chosenPlaces, largest, matrixOf } from "../head.js";
import { colourOf, format, shareOf } from "../scale.js";

const COUNT = 8;

/** @type {import("../app.js").View} */
export const largestWeights = {
  id: "largest-weights",
  title: "Numbers",
  mount(root, app) {
    const hasChanged = changes();
    return (state, data) => {
      const loaded = data.head?.value;
      if (!loaded) return;
      const theme = app.theme.name;
      if (!hasChanged(loaded, data.token, data.partner, state.scale, theme)) return;
      const matrix = matrixOf(loaded);
      const places = chosenPlaces(matrix, data);
      root.replaceChildren();
      const share = shareOf(state.scale);
      for (const axis of /** @type {const} */ (["row", "column"])) {
        const place = places[axis];
        if (place < 0) {
          const isRepeated = !matrix.isCross && axis === "column"; // the row has the same note
          if (!isRepeated) root.append(h("p", { class: "muted" }, "The chosen token is hidden."));
          continue;
        }
        const side = axis === "row" ? matrix.rows : matrix.columns;
        const name = h("b", {}, side.labels[place] ?? "");
        const title = axis === "row" ? [name, " looks at"] : ["Tokens that look at ", name];
        const rows = largest(matrix, place, axis, COUNT).filter(({ weight }) => weight > 0);
        root.append(
          h(
            "table",
            { class: `largest-weights ${axis}` },
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
                bar.style.width = `${share(weight) * 100}%`;
                bar.style.background = colourOf(Math.max(share(weight), 0.25), theme);
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
