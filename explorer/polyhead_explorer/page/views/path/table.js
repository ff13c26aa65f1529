/** The table of a path: the point at each step, the turn, and the nearest token. */

import { h } from "../../dom.js";
import { largestOf, numberWithBar, signed } from "../../strip.js";
import { nameOf } from "../../subject.js";

/**
 * Return the name of a step.
 * @param {number} step
 * @param {{ name: string }[]} layers
 */
export function stepName(step, layers) {
  return step === 0 ? `before layer ${layers[0]?.name}` : `after layer ${layers[step - 1]?.name}`;
}

/**
 * @param {import("../../source.js").Path} path
 * @param {import("../../app.js").Reading} reading
 * @param {number} place index of the followed token in the path's tokens
 * @param {[string, string]} axes
 * @param {number} chosen the chosen step
 * @param {(step: number) => void} onChoose
 */
export function pathTable(path, reading, place, axes, chosen, onChoose) {
  const { points, otherPath, turned, nearest } = path;
  const [numSteps = 0, numTokens = 0] = points.shape;
  const others = otherPath.shape[0] ? axes.map((axis) => `${axis} (other text)`) : [];
  const largest = largestOf(turned);
  return h(
    "table",
    { class: "steps-table path-table" },
    h("caption", { class: "visually-hidden" }, "The path in numbers"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ...["Step", ...axes, ...others, "Turned by", "Nearest"].map((title) =>
          h("th", { scope: "col" }, title),
        ),
      ),
    ),
    h(
      "tbody",
      {},
      ...Array.from({ length: numSteps }, (_, step) => {
        const at = 2 * (step * numTokens + place);
        const near = nearest[step] ?? -1;
        const name = h(
          "button",
          {
            type: "button",
            class: "link",
            "aria-pressed": String(step === chosen),
            onclick: () => onChoose(step),
          },
          stepName(step, reading.layers),
        );
        return h(
          "tr",
          { class: step === chosen ? "own" : "" },
          h("th", { scope: "row" }, name),
          h("td", { class: "number" }, signed(points.data[at] ?? 0)),
          h("td", { class: "number" }, signed(points.data[at + 1] ?? 0)),
          ...others.map((_, axis) =>
            h("td", { class: "number second" }, signed(otherPath.data[2 * step + axis] ?? 0)),
          ),
          h("td", {}, ...(step ? numberWithBar(turned[step] ?? 0, largest, false) : [])),
          h("td", { class: "key" }, near < 0 ? "" : nameOf(reading.tokens[near])),
        );
      }),
    ),
  );
}
