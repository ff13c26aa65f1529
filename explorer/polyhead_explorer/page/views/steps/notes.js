/** The notes on the steps: the source of the numbers, and why some are missing. */

import { h } from "../../dom.js";
import { signed } from "../../strip.js";

/**
 * Return the list of notes.
 * @param {import("../../source.js").Row} row
 * @param {import("../../source.js").Vectors | undefined} vectors
 * @param {{ hasHidden: boolean, isCross: boolean }} about
 */
export function notes({ spec, scores, masked }, vectors, { hasHidden, isCross }) {
  const isUnmasked = scores.every((score, index) => score === masked[index]);
  const isMasked = masked.some((value) => value === -Infinity);
  const texts = [
    vectors && !vectors.reason && (isCross ? VECTORS_OF_TWO_TEXTS : VECTORS),
    vectors &&
      !vectors.reason &&
      "3: the explorer computes the products of these numbers, and their sum. The server computes " +
        "all numbers of 4 to 6, and the vectors of 8. 7 is the explorer's product of two of them.",
    spec.softcap > 0 && `4: this model caps its scores at ${signed(spec.softcap)}.`,
    isUnmasked && "5: nothing is masked here, so the numbers are equal to those of 4.",
    isMasked && `5: ${whyMasked(spec)}`,
    spec.has_sinks && "6: the weights sum to less than 1, because the head's sink takes a share.",
    vectors &&
      !vectors.reason &&
      "8: the output matrix maps the z of all heads to the vector that attention adds to the token.",
    vectors?.reason && `1 to 3, 7, 8: left out. ${vectors.reason}`,
    hasHidden && "Hidden tokens are shown here, because softmax is over all keys.",
  ];
  const sentences = texts.filter((text) => typeof text === "string" && text);
  return h("ul", { class: "notes" }, ...sentences.map((text) => h("li", {}, text || "")));
}

const VECTORS =
  "1, 2: the head's own vectors, from the server. The model's matrices map x to them, after a norm " +
  "if the layer has one there. Some models then rotate them by their positions.";
const VECTORS_OF_TWO_TEXTS =
  "1, 2: the head's own vectors, from the server. x enters the decoder's layer, whose attention to " +
  "the decoder's own tokens comes first, so q is computed from its result. Keys and values are " +
  "computed from e, the encoder's output.";

/** @param {import("../../source.js").Spec} spec */
function whyMasked({ is_causal, sliding_window }) {
  const parts = [
    is_causal && "a token does not see later ones",
    sliding_window && `it sees at most ${sliding_window} tokens to each side, including itself`,
  ];
  return `${parts.filter(Boolean).join(", and ") || "masked keys"}: −∞.`;
}
