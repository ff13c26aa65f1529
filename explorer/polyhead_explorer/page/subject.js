/** What is read, in which model, and which of its attentions is looked at. */

/**
 * Whose attention: an encoder's, or that of any model of one stack; a decoder's to its own tokens;
 * a decoder's to the encoder's tokens.
 * @typedef {"encoder" | "decoder" | "cross"} Attention
 */

/**
 * @typedef {object} Token
 * @property {string} text its part of the text
 * @property {string} spelling as the vocabulary spells it
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
 * @property {Attention} [attention] without it, the encoder's
 * @property {string} [decoder_text] what the decoder reads, where its attention is looked at
 */

/**
 * @typedef {object} Reading
 * @property {Token[]} tokens the tokens that look: the rows
 * @property {Token[]} keys the tokens that are looked at: the columns
 * @property {boolean} isCross whether the keys are the tokens of another text
 * @property {{ name: string, num_heads: number }[]} layers
 * @property {boolean} is_causal whether no token sees a later one
 * @property {boolean} is_cut whether the model reads the beginning of the text only
 * @property {Grid | null} picture the patches of a picture; null: it is a text
 */

/**
 * Return what a state's texts are in a model.
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
 * The text of the decoder: what the viewer wrote, or else the same text.
 * @param {import("./state.js").State} state
 */
export function decoderTextOf({ decoderText, text }) {
  return decoderText.trim() ? decoderText : text;
}

/**
 * The text whose tokens look.
 * @param {Subject} subject
 */
export function ownText({ text, decoder_text: decoderText }) {
  return decoderText ?? text;
}

/**
 * Whether the tokens that look are a decoder's.
 * @param {Subject | undefined} subject
 */
export function isDecoders(subject) {
  return subject?.decoder_text !== undefined;
}

/**
 * Return what an answer says of a subject.
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
