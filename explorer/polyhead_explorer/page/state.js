/** What the viewer has chosen. It is written into the address, so that a link restores it. */

/** @typedef {"linear" | "power" | "log"} Scale */
/** @typedef {"words" | "position"} Alignment which tokens of two texts belong together */
/** @typedef {"previous" | "next" | "first" | "same" | "pair"} Measure what heads are ranked by */
/** @typedef {import("./subject.js").Attention} Attention */

/**
 * @typedef {object} State
 * @property {string} model name of the model; "": the first that can be shown
 * @property {string} text
 * @property {string} decoderText of a decoder; "": the same text
 * @property {Attention} attention of an encoder-decoder
 * @property {number} layer
 * @property {number} head
 * @property {number} token the token whose row is looked at; -1: none was chosen
 * @property {boolean} picture whether a picture is read by models that take texts too
 * @property {string} image name of the picture; "": the viewer's, or the built-in one
 * @property {string} view id of the view beside the grid; "": the first that suits
 * @property {Scale} scale how weights become colours
 * @property {boolean} hideSpecial
 * @property {boolean} hideSinks
 * @property {boolean} renormalise whether what is left of a row is scaled to sum to 1
 * @property {Measure} measure
 * @property {boolean} gridMeasure whether the grid shows the measure in place of maps
 * @property {number} pairKey the key that is chosen, as the end of a ranked pair; -1: none was
 * @property {"pca" | "word" | "anchors"} plane in which a word's path is drawn
 * @property {string} anchorX a word
 * @property {string} anchorY a word
 * @property {boolean} bothPaths whether the word's path in the other text is drawn too
 * @property {number} step up to which step the path is drawn; -1: all
 * @property {string} other the text that is compared; "": one of the two sentences
 * @property {Alignment} align
 * @property {"map" | "row"} compare whether all tokens are compared, or the chosen one
 */

export const SENTENCES = [
  "Tom is going to fish at the river bank.",
  "Tom is going to the bank to deposit money.",
];

/** @type {Readonly<State>} */
export const DEFAULTS = Object.freeze({
  model: "",
  text: SENTENCES[0] ?? "",
  decoderText: "",
  attention: "encoder",
  layer: 0,
  head: 0,
  token: -1,
  picture: false,
  image: "",
  view: "",
  scale: "power",
  hideSpecial: false,
  hideSinks: false,
  renormalise: true,
  measure: "previous",
  gridMeasure: false,
  pairKey: -1,
  plane: "pca",
  anchorX: "river",
  anchorY: "money",
  bothPaths: false,
  step: -1,
  other: "",
  align: "words",
  compare: "map",
});

/** Most rows and columns of the small maps of all heads. */
export const MAP_SIZE = 48;

/**
 * The text that is compared: what the viewer wrote, or else one of the two sentences.
 * @param {State} state
 */
export function otherOf({ other, text }) {
  const [first = "", second = ""] = SENTENCES;
  return other || (text === first ? second : first);
}

/** Choices of a few. What is none of them has its default. */
const CHOICES = /** @type {const} */ ({
  attention: ["encoder", "decoder", "cross"],
  scale: ["linear", "power", "log"],
  measure: ["previous", "next", "first", "same", "pair"],
  plane: ["pca", "word", "anchors"],
  align: ["words", "position"],
  compare: ["map", "row"],
});

/**
 * Read a state from an address's part after "#". What is missing or wrong has its default.
 * @param {string} hash
 * @returns {State}
 */
export function readState(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  /** @type {Record<string, string | number | boolean>} */
  const state = { ...DEFAULTS };
  for (const [name, value] of Object.entries(DEFAULTS)) {
    const text = given.get(name);
    if (text === null) continue;
    if (typeof value === "number") state[name] = /^\d{1,6}$/.test(text) ? Number(text) : value;
    else if (typeof value === "boolean") state[name] = text === "1";
    else state[name] = text;
  }
  for (const [name, choices] of Object.entries(CHOICES)) {
    const isChoice = choices.some((choice) => choice === state[name]);
    if (!isChoice) state[name] = DEFAULTS[/** @type {keyof typeof CHOICES} */ (name)];
  }
  return /** @type {State} */ (/** @type {unknown} */ (state));
}

/**
 * Write a state for an address, without what has its default.
 * @param {State} state
 */
export function writeState(state) {
  const written = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value === DEFAULTS[/** @type {keyof State} */ (name)]) continue;
    written.set(name, typeof value === "boolean" ? (value ? "1" : "0") : String(value));
  }
  return written.size ? `#${written}` : "";
}
