/** Where the numbers of the steps come from, and why some are missing. */

import { h } from "../../dom.js";
import { signed } from "../../strip.js";

/**
 * Say where the numbers come from.
 * @param {import("../../source.js").Row} row
 * @param {import("../../source.js").Vectors | undefined} vectors
 * @param {{ hasHidden: boolean, isCross: boolean }} about
 */
export function notes({ spec, scores, masked }, vectors, { hasHidden, isCross }) {
  const isSame = scores.every((score, index) => score === masked[index]);
  const isMasked = masked.some((value) => value === -Infinity);
  const texts = [
    vectors && !vectors.reason && (isCross ? VECTORS_OF_TWO_TEXTS : VECTORS),
    vectors &&
      !vectors.reason &&
      "3: the explorer's own products of these numbers, and their sum. All numbers of 4 to 6, and " +
        "the vectors of 8, are the server's; 7 is the explorer's product of the server's two.",
    spec.softcap > 0 && `4: this model caps its scores at ${signed(spec.softcap)}.`,
    isSame && "5: nothing is masked here, so the numbers of 4 stay.",
    isMasked && `5: ${whyMasked(spec)}`,
    spec.has_sinks && "6: the weights sum to less than 1, because the head's sink takes a share.",
    vectors &&
      !vectors.reason &&
      "8: the output matrix makes of the z of all heads together what attention adds to the token.",
    vectors?.reason && `1 to 3, 7, 8: left out. ${vectors.reason}`,
    hasHidden && "Hidden tokens are shown here, because softmax is over all keys.",
  ];
  const sentences = texts.filter((text) => typeof text === "string" && text);
  return h("ul", { class: "notes" }, ...sentences.map((text) => h("li", {}, text || "")));
}

const VECTORS =
  "1, 2: the head's own vectors, from the server. The model's matrices make them of x, after a " +
  "norm if one stands there; rotated, if the model rotates them by their positions.";
const VECTORS_OF_TWO_TEXTS =
  "1, 2: the head's own vectors, from the server. x enters the decoder's layer, and its attention " +
  "to the decoder's own tokens comes before this one, so q is made of what that leaves. Keys and " +
  "values are made of e, the encoder's output.";

/** @param {import("../../source.js").Spec} spec */
function whyMasked({ is_causal, sliding_window }) {
  const parts = [
    is_causal && "a token does not see later ones",
    sliding_window && `it sees ${sliding_window} tokens at most to each side, itself among them`,
  ];
  return `${parts.filter(Boolean).join(", and ") || "masked keys"}: −∞.`;
}
