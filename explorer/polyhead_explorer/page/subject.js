/** The text or picture that a model reads, and the attention that is shown. */

/**
 * "encoder": the self-attention of the encoder, or of the only stack; "decoder": the self-attention
 * of the decoder; "cross": the attention of the decoder to the encoder's tokens.
 * @typedef {"encoder" | "decoder" | "cross"} Attention
 */

/**
 * @typedef {object} Token
 * @property {string} text its part of its text
 * @property {string} spelling its spelling in the vocabulary
 * @property {number} start
 * @property {number} end
 * @property {number} text_index 0: of the text; 1: of the second text; 0 for special tokens
 * @property {boolean} is_special
 */

/** @typedef {{ rows: number, columns: number, first: number }} Grid patches of a picture */

/**
 * @typedef {object} Subject a text or a picture in a model
 * @property {string} model
 * @property {number} version
 * @property {string} text
 * @property {string} [text_pair] the second text, which becomes one sequence with the text
 * @property {string} [image] name of a picture
 * @property {Attention} [attention] the encoder's if it is missing
 * @property {string} [decoder_text] the decoder's text, if its attention is shown
 */

/**
 * @typedef {object} Reading
 * @property {Token[]} tokens the tokens that attend: the rows
 * @property {Token[]} keys the tokens that are attended to: the columns
 * @property {boolean} isCross whether the keys are the encoder's tokens, and the others the decoder's
 * @property {{ name: string, num_heads: number }[]} layers
 * @property {boolean} is_causal whether no token attends to a later one
 * @property {boolean} is_cut whether the model reads only the beginning of the text
 * @property {Grid | null} picture the patches of a picture; null for a text
 */

/**
 * Return the subject of a state's texts in a model.
 * @param {import("./source.js").Model} model
 * @param {import("./state.js").State} state
 * @returns {Subject}
 */
export function textSubject({ name, version, has_decoder, takes_pairs }, state) {
  const { textPair } = state;
  const pair = takes_pairs && textPair.trim() ? { text_pair: textPair } : {};
  const subject = { model: name, version, text: state.text, ...pair };
  if (!has_decoder || state.attention === "encoder") return subject;
  return { ...subject, attention: state.attention, decoder_text: decoderTextOf(state) };
}

/**
 * Return the decoder's text: the viewer's, or else the same text.
 * @param {import("./state.js").State} state
 */
export function decoderTextOf({ decoderText, text }) {
  return decoderText.trim() ? decoderText : text;
}

/**
 * Return the text of the encoder or of the only stack, and its second text if it has one.
 * @param {Subject} subject
 */
export function textsOf({ text, text_pair: pair }) {
  return pair === undefined ? [text] : [text, pair];
}

/**
 * Return the texts whose tokens attend.
 * @param {Subject} subject
 */
export function ownTexts(subject) {
  return subject.decoder_text === undefined ? textsOf(subject) : [subject.decoder_text];
}

/**
 * Whether the tokens that attend are the decoder's.
 * @param {Subject | undefined} subject
 */
export function isDecoders(subject) {
  return subject?.decoder_text !== undefined;
}

/** A note on the text that is compared, if there is a second text. */
export const SAME_SECOND_TEXT = "The other text has the same second text.";

/** The mark of a token of a second text, behind its name. */
export const SECOND_MARK = "\u00b2";

/**
 * Return the name of a token, which says whether it is of a second text.
 * @param {Token | undefined} token
 */
export function nameOf(token) {
  if (!token) return "";
  return token.text_index ? `${token.text}${SECOND_MARK}` : token.text;
}

/** @typedef {{ start: number, end: number, textIndex: number }} Part a range of tokens */

/**
 * Return the parts of a sequence: the text, and its second text if it has one. Special tokens belong
 * to the part before them; those at the beginning, to the first one.
 * @param {Token[]} tokens
 * @returns {Part[]}
 */
export function partsOf(tokens) {
  /** @type {Part[]} */
  const parts = [];
  tokens.forEach(({ is_special, text_index: textIndex }, index) => {
    const last = parts.at(-1);
    const isAdded = is_special && !textIndex;
    if (last && (isAdded || textIndex === last.textIndex)) last.end = index + 1;
    else parts.push({ start: index, end: index + 1, textIndex });
  });
  return parts;
}

/**
 * Return the reading in an answer's header.
 * @param {Record<string, any>} header
 * @returns {Reading}
 */
export function readingFrom({ tokens, keys, layers, is_causal, is_cut, picture = null }) {
  return {
    tokens,
    keys: keys ?? tokens,
    isCross: Boolean(keys),
    layers,
    is_causal,
    is_cut,
    picture,
  };
}
