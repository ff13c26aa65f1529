/** Where the numbers of the steps come from, and why some are missing. */

import { h } from "../../dom.js";
import { signed } from "../../strip.js";

/**
 * Say where the numbers come from.
 * @param {import("../../source.js").Row} row
 * @param {import("../../source.js").Vectors | undefined} vectors
 * @param {boolean} hasHidden
 */
export function notes({ spec, scores, masked }, vectors, hasHidden) {
  const isSame = scores.every((score, index) => score === masked[index]);
  const isMasked = masked.some((value) => value === -Infinity);
  const texts = [
    "1, 2: the server does not give queries and keys. Shown is x, which enters the layer; the " +
      "model's matrices, and its norm if it has one there, make queries and keys of it.",
    spec.softcap
      ? `3: left out, because this model caps its scores at ${signed(spec.softcap)}, and the ` +
        "server gives them scaled and capped."
      : `3: this page's own division of the server's scores by the model's scale, ` +
        `${signed(spec.scale)}. The numbers of 4 to 8 are the server's.`,
    isSame && "5: nothing is masked here, so the numbers of 4 stay.",
    isMasked && `5: ${whyMasked(spec)}`,
    spec.has_sinks && "6: the weights sum to less than 1, because the head's sink takes a share.",
    vectors &&
      !vectors.reason &&
      "7, 8: had by asking the server for this head alone, with each token attending to itself " +
        "alone: then its weight is 1. Values are projected to the output, and the block's bias, " +
        "which all tokens get, is left out.",
    vectors?.reason && `7, 8: left out. ${vectors.reason}`,
    hasHidden && "Hidden tokens are shown here, because softmax is over all keys.",
  ];
  const told = texts.filter((text) => typeof text === "string" && text);
  return h("ul", { class: "notes" }, ...told.map((text) => h("li", {}, text || "")));
}

/** @param {import("../../source.js").Spec} spec */
function whyMasked({ is_causal, sliding_window }) {
  const parts = [
    is_causal && "a token does not see later ones",
    sliding_window && `it sees ${sliding_window} tokens at most to each side, itself among them`,
  ];
  return `${parts.filter(Boolean).join(", and ") || "masked keys"}: −∞.`;
}
