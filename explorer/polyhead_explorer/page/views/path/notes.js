/** The note on the plane of a path. */

import { isDecoders, SAME_SECOND_TEXT } from "../../subject.js";

/** @param {number | undefined} share */
export function percent(share) {
  return `${Math.round((share ?? 0) * 100)} %`;
}

/**
 * Return a note on the plane, and on the states that are drawn.
 * @param {import("../../source.js").Path} path
 * @param {import("../../app.js").Reading} reading
 * @param {import("../../state.js").State} state
 */
export function noteOf({ shares, tokens, otherPath }, { tokens: all, subject }, state) {
  const isDecoder = isDecoders(subject);
  const parts = [shares.length ? principal(shares, state) : nearness(isDecoder)];
  parts.push("Turned by is 1 − the cosine between a state and the previous one.");
  if (isDecoder) {
    parts.push("The states are the decoder's; a step is a layer with both attentions.");
  }
  if (tokens.length < all.length) parts.push(`${tokens.length} of ${all.length} tokens are drawn.`);
  if (state.bothPaths && !otherPath.shape[0]) parts.push("The other text has no such word.");
  else if (state.bothPaths && isDecoder) {
    parts.push("The other path is of the same token, with the other text in the encoder.");
  }
  if (state.bothPaths && subject.text_pair !== undefined) parts.push(SAME_SECOND_TEXT);
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
    ? "the decoder reads alone, with the same text in the encoder"
    : "the model reads alone";
  return `An axis is the cosine between the hidden state and the state of the word at the same step. The word is a text that ${reader}.`;
}
