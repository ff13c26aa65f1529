/** What a path's plane is, in words. */

import { isDecoders } from "../../subject.js";

/** @param {number | undefined} share */
export function percent(share) {
  return `${Math.round((share ?? 0) * 100)} %`;
}

/**
 * Say what the plane is, and whose states are drawn.
 * @param {import("../../source.js").Path} shown
 * @param {import("../../app.js").Reading} reading
 * @param {import("../../state.js").State} state
 */
export function noteOf({ shares, tokens, otherPath }, { tokens: all, subject }, state) {
  const isDecoder = isDecoders(subject);
  const parts = [shares.length ? principal(shares, state) : nearness(isDecoder)];
  parts.push("A step turns a state by 1 − its cosine to the one before.");
  if (isDecoder) {
    parts.push("The states are the decoder's; a step is both attentions of a layer.");
  }
  if (tokens.length < all.length) parts.push(`${tokens.length} of ${all.length} tokens are drawn.`);
  if (state.bothPaths && !otherPath.shape[0]) parts.push("The other text has no such word.");
  else if (state.bothPaths && isDecoder) {
    parts.push("The other path is of the same token while the encoder has read the other text.");
  }
  return parts.join(" ");
}

/**
 * @param {number[]} shares
 * @param {import("../../state.js").State} state
 */
function principal([first = 0, second = 0], { plane }) {
  const states = plane === "word" ? "the states of the path" : "the hidden states of all tokens";
  return (
    `The two directions in which ${states} spread most, scaled to length 1: ` +
    `${percent(first + second)} of their variance.`
  );
}

/** @param {boolean} isDecoder */
function nearness(isDecoder) {
  const reader = isDecoder
    ? "the decoder reads as a text of its own, with the same text in the encoder,"
    : "the model reads as a text of its own,";
  return `An axis is the cosine between the hidden state and that of the word, which ${reader} at the same step.`;
}
