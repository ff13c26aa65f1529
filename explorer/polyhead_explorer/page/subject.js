/** The text or picture that a model reads, and the attention that is shown. */

/**
 * "encoder": the self-attention of the encoder, or of the only stack; "decoder": the self-attention
 * of the decoder; "cross": the attention of the decoder to the encoder's tokens.
 * @typedef {"encoder" | "decoder" | "cross"} Attention
 */

/**
 * @typedef {object} Token
 * @property {string} text its part of the text
 * @property {string} spelling its spelling in the vocabulary
 * @property {number} start
 * @property {number} end
 * @property {boolean} is_special
 */

/** @typedef {{ rows: number, columns: number, first: number }} Grid patches of a picture */

/**
 * @typedef {object} Subject a text or a picture in a model
 * @property {string} model
 * @property {number} version
 * @property {string} text
 * @property {string} [image] name of a picture
 * @property {Attention} [attention] the encoder's if it is missing
 * @property {string} [decoder_text] the decoder's text, if its attention is shown
 */

/**
 * @typedef {object} Reading
 * @property {Token[]} tokens the tokens that attend: the rows
 * @property {Token[]} keys the tokens that are attended to: the columns
 * @property {boolean} isCross whether the keys are the tokens of another text
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
export function textSubject({ name, version, has_decoder }, state) {
  const subject = { model: name, version, text: state.text };
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
 * Return the text whose tokens attend.
 * @param {Subject} subject
 */
export function ownText({ text, decoder_text: decoderText }) {
  return decoderText ?? text;
}

/**
 * Whether the tokens that attend are the decoder's.
 * @param {Subject | undefined} subject
 */
export function isDecoders(subject) {
  return subject?.decoder_text !== undefined;
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
