/** What the viewer has chosen. It is written into the address, so that a link restores it. */

/** @typedef {"linear" | "power" | "log"} Scale */

/**
 * @typedef {object} State
 * @property {string} model name of the model; "": the first that can be shown
 * @property {string} text
 * @property {number} layer
 * @property {number} head
 * @property {number} token the token whose row is looked at; -1: none was chosen
 * @property {string} view id of the view beside the grid
 * @property {Scale} scale how weights become colours
 * @property {boolean} hideSpecial
 * @property {boolean} hideSinks
 * @property {boolean} renormalise whether what is left of a row is scaled to sum to 1
 */

export const SENTENCES = [
  "Tom is going to fish at the river bank.",
  "Tom is going to the bank to deposit money.",
];

/** @type {Readonly<State>} */
export const DEFAULTS = Object.freeze({
  model: "",
  text: SENTENCES[0] ?? "",
  layer: 0,
  head: 0,
  token: -1,
  view: "lines",
  scale: "power",
  hideSpecial: false,
  hideSinks: false,
  renormalise: true,
});

const SCALES = ["linear", "power", "log"];

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
  if (!SCALES.includes(String(state.scale))) state.scale = DEFAULTS.scale;
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
