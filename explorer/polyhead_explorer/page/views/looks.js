/** What the chosen token looks at in this head, and what looks at it: the numbers, as tables. */

import { changes } from "../changes.js";
import { h } from "../dom.js";
import { largest, matrixOf, placeOf } from "../head.js";
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
      if (!hasChanged(found, data.token, state.scale, app.theme.name)) return;
      const matrix = matrixOf(found);
      const place = placeOf(matrix, data.token);
      root.replaceChildren();
      if (place < 0) {
        root.append(h("p", { class: "muted" }, "The chosen token is hidden."));
        return;
      }
      const name = matrix.labels[place] ?? "";
      const show = shareOf(state.scale);
      for (const [axis, title, column] of /** @type {const} */ ([
        ["row", [name, " looks at"], "Token"],
        ["column", ["Looks at ", name], "Token"],
      ])) {
        const rows = largest(matrix, place, axis, COUNT).filter(({ weight }) => weight > 0);
        root.append(
          h(
            "table",
            { class: `looks ${axis}` },
            h("caption", {}, ...title.map((part) => (part === name ? h("b", {}, part) : part))),
            h(
              "thead",
              { class: "visually-hidden" },
              h(
                "tr",
                {},
                h("th", { scope: "col" }, column),
                h("th", { scope: "col" }, "Weight"),
                h("td"),
              ),
            ),
            h(
              "tbody",
              {},
              ...rows.map(({ place: other, weight }) => {
                const bar = h("span", { class: "bar" });
                bar.style.width = `${show(weight) * 100}%`;
                bar.style.background = colourOf(Math.max(show(weight), 0.25), app.theme.name);
                return h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, matrix.labels[other] ?? ""),
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
