/** The viewer's choices. They are written into the address, so that a link restores them. */

/** @typedef {"linear" | "power" | "log"} Scale */
/** @typedef {"words" | "position"} Alignment how tokens of this text and of the other are paired */
/** @typedef {"previous" | "next" | "first" | "same" | "pair"} Measure the measure by which heads are ranked */
/** @typedef {import("./subject.js").Attention} Attention */

/**
 * @typedef {object} State
 * @property {string} model name of the model; "" means the first that can be shown
 * @property {string} text
 * @property {string} textPair the second text, which becomes one sequence with the text; "" means none
 * @property {string} decoderText the decoder's text; "" means the same text
 * @property {Attention} attention the chosen attention of an encoder-decoder
 * @property {number} layer
 * @property {number} head
 * @property {number} token the token whose row is shown; -1 means none
 * @property {boolean} picture whether a model that takes both reads a picture, not the text
 * @property {string} image name of the picture; "" means the viewer's, or the built-in one
 * @property {string} view id of the view beside the grid; "" means the first that can show the data
 * @property {Scale} scale how weights become colours
 * @property {boolean} hideSpecial
 * @property {boolean} hideSinks
 * @property {boolean} renormalise whether the shown weights of a row are scaled to sum to 1
 * @property {Measure} measure
 * @property {boolean} gridMeasure whether the grid shows the measure in place of maps
 * @property {number} pairKey the chosen key of a ranked pair; -1 means none
 * @property {"pca" | "word" | "anchors"} plane the plane in which a token's path is drawn
 * @property {string} anchorX the word of the first axis
 * @property {string} anchorY the word of the second axis
 * @property {boolean} bothPaths whether the path in the other text is also drawn
 * @property {number} step the last step of the drawn path; -1 means all steps
 * @property {string} other the text that is compared; "" means one of the two sentences
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
  textPair: "",
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
 * Return the text that is compared: the viewer's, or else one of the two sentences.
 * @param {State} state
 */
export function otherOf({ other, text }) {
  const [first = "", second = ""] = SENTENCES;
  return other || (text === first ? second : first);
}

/** The allowed values of some choices. Any other value is replaced by the default. */
const CHOICES = /** @type {const} */ ({
  attention: ["encoder", "decoder", "cross"],
  scale: ["linear", "power", "log"],
  measure: ["previous", "next", "first", "same", "pair"],
  plane: ["pca", "word", "anchors"],
  align: ["words", "position"],
  compare: ["map", "row"],
});

/**
 * Read a state from an address's part after "#". Missing and wrong values have their defaults.
 * @param {string} hash
 * @returns {State}
 */
export function readState(hash) {
  const parameters = new URLSearchParams(hash.replace(/^#/, ""));
  /** @type {Record<string, string | number | boolean>} */
  const state = { ...DEFAULTS };
  for (const [name, value] of Object.entries(DEFAULTS)) {
    const text = parameters.get(name);
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
 * Write a state for an address, without values that are defaults.
 * @param {State} state
 */
export function writeState(state) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value === DEFAULTS[/** @type {keyof State} */ (name)]) continue;
    parameters.set(name, typeof value === "boolean" ? (value ? "1" : "0") : String(value));
  }
  return parameters.size ? `#${parameters}` : "";
}
