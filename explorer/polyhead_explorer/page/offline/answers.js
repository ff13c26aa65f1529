/**
 * The answers in a saved file (offline/answers.py). Heads are computed from the weights of a layer.
 * All other answers are those of the explorer when the file was made.
 */

import { SourceError } from "../errors.js";
import { readFrames } from "../frames.js";
import { measuresOf } from "../measures.js";
import { readingFrom } from "../subject.js";
import { factorOf, layoutOf, shrink } from "./weights.js";

/**
 * @typedef {import("../frames.js").Frame} Frame
 * @typedef {import("../transport.js").Question} Question
 */

/**
 * The description of a file.
 * @typedef {object} About
 * @property {string} hash the state that the page shows first, in the form of an address
 * @property {string} made a sentence on the time and the source of the file
 * @property {string} missing a sentence on what the file does not contain
 * @property {string[]} texts the texts in the file
 * @property {string[]} endpoints names of the endpoints that it answers, besides maps and heads
 * @property {string[]} attentions the attentions in the file (subject.js)
 */

/**
 * @typedef {object} Saved
 * @property {About} about
 * @property {Map<string, Uint8Array<ArrayBuffer>>} records frames, by the key of their question
 */

/** The name of the endpoint of a layer's weights. */
export const WEIGHTS = "weights";

/**
 * Return the key of a question. Equal questions have equal keys.
 * @param {Question} question
 */
export function keyOf({ name, body }) {
  return JSON.stringify([name, body && sorted(body)]);
}

/**
 * Read the answers of this file; null if the page is served.
 * @returns {Promise<Saved> | null}
 */
export function savedAnswers() {
  const element = document.getElementById("answers");
  return element ? unpack(element.textContent.trim()) : null;
}

/** The description of this file; null if the page is served. */
export const aboutFile = readAbout();

function readAbout() {
  const element = document.getElementById("about");
  return element ? /** @type {About} */ (JSON.parse(element.textContent)) : null;
}

/**
 * Whether an endpoint answers. All do if the page is served.
 * @param {string} endpoint
 */
export function canAnswer(endpoint) {
  return aboutFile?.endpoints.includes(endpoint) ?? true;
}

/** @param {string} text base64 of the records, compressed by gzip */
async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const view = new DataView(bytes.buffer);
  /** @type {Saved["records"]} */
  const records = new Map();
  for (let at = 0; at < bytes.length;) {
    const start = at + 4 + view.getUint32(at, true);
    const { name, body, size } = JSON.parse(
      new TextDecoder().decode(bytes.subarray(at + 4, start)),
    );
    records.set(keyOf({ name, body }), bytes.subarray(start, start + size));
    at = start + size;
  }
  return { about: /** @type {About} */ (aboutFile), records };
}

/**
 * Answer like the explorer. Raises SourceError if the file does not have the answer.
 * @param {Saved} saved
 * @param {Question} question
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Frame, void, void>}
 */
export async function* answer(saved, { name, body }, signal) {
  const bytes = saved.records.get(keyOf({ name, body }));
  if (bytes) yield* readFrames(new Blob([bytes]).stream());
  else if (name === "maps") yield* maps(saved, /** @type {any} */ (body), signal);
  else if (name === "pair") yield* pair(saved, /** @type {any} */ (body));
  else if (name === "head") yield await head(saved, /** @type {any} */ (body));
  else throw missing(saved);
}

/**
 * @param {Saved} saved
 * @param {any} body
 * @param {AbortSignal} signal
 */
async function* maps(saved, { hide, hide_keys, renormalise, size, ...subject }, signal) {
  const reading = await readingOf(saved, subject);
  const layout = layoutOf(reading, { hide, hide_keys, renormalise }, size);
  const [numRows, numColumns] = [layout.rows.starts.length, layout.keys.starts.length];
  const numKeys = reading.keys.length;
  for (let layer = 0; layer < reading.layers.length; layer++) {
    const weights = await weightsOf(saved, subject, layer);
    signal.throwIfAborted();
    const numHeads = weights.shape[0] ?? 0;
    const numMeasures = measuresOf(reading.isCross).length - 1; // without "pair"
    const small = new Float32Array(numHeads * numRows * numColumns);
    const received = new Float32Array(numHeads * numKeys);
    const measures = new Float32Array(numMeasures * numHeads);
    for (let number = 0; number < numHeads; number++) {
      const shrunk = shrink(headOf(weights, number), numKeys, layout);
      shrunk.measures.forEach((value, index) => (measures[index * numHeads + number] = value));
      small.set(shrunk.map, number * shrunk.map.length);
      received.set(shrunk.received, number * numKeys);
    }
    yield {
      header: { layer },
      arrays: {
        maps: { shape: [numHeads, numRows, numColumns], data: small },
        received: { shape: [numHeads, numKeys], data: received },
        measures: { shape: [numMeasures, numHeads], data: measures },
      },
    };
  }
}

const MAX_HEAD_SIZE = 1024;

/**
 * @param {Saved} saved
 * @param {any} body
 */
async function* pair(saved, { hide, hide_keys, renormalise, query, key, ...subject }) {
  const reading = await readingOf(saved, subject);
  const { layers, keys } = reading;
  const { kept } = layoutOf(reading, { hide, hide_keys, renormalise }, keys.length).keys;
  for (let layer = 0; layer < layers.length; layer++) {
    const weights = await weightsOf(saved, subject, layer);
    const numHeads = weights.shape[0] ?? 0;
    const data = Float32Array.from({ length: numHeads }, (_, head) => {
      const start = query * keys.length;
      const row = headOf(weights, head).subarray(start, start + keys.length);
      return (row[key] ?? 0) * factorOf(row, kept, renormalise);
    });
    yield { header: { layer }, arrays: { weights: { shape: [numHeads], data } } };
  }
}

/**
 * @param {Saved} saved
 * @param {any} body
 */
async function head(saved, { hide, hide_keys, renormalise, layer, head: number, ...subject }) {
  const reading = await readingOf(saved, subject);
  const layout = layoutOf(reading, { hide, hide_keys, renormalise }, MAX_HEAD_SIZE);
  const weights = headOf(await weightsOf(saved, subject, layer), number);
  const { map } = shrink(weights, reading.keys.length, layout);
  const { rows, keys } = layout;
  return {
    header: { layer, head: number, rows, keys },
    arrays: { weights: { shape: [rows.starts.length, keys.starts.length], data: map } },
  };
}

/**
 * @param {Saved} saved
 * @param {object} subject
 */
async function readingOf(saved, subject) {
  const { header } = await firstFrame(saved, { name: "reading", body: subject });
  return readingFrom(header);
}

/** @type {WeakMap<Saved, { key: string, weights: import("../frames.js").Tensor }>} */
const last = new WeakMap();

/**
 * Return a layer's weights. Those of the last question are cached, because viewers go from head to
 * head.
 * @param {Saved} saved
 * @param {object} subject
 * @param {number} layer
 */
async function weightsOf(saved, subject, layer) {
  const question = { name: WEIGHTS, body: { ...subject, layer } };
  const key = keyOf(question);
  const cached = last.get(saved);
  if (cached?.key === key) return cached.weights;
  const { arrays } = await firstFrame(saved, question);
  const { weights } = arrays;
  if (!weights) throw missing(saved);
  last.set(saved, { key, weights });
  return weights;
}

/**
 * @param {Saved} saved
 * @param {Question} question
 */
async function firstFrame(saved, question) {
  const bytes = saved.records.get(keyOf(question));
  if (!bytes) throw missing(saved);
  for await (const frame of readFrames(new Blob([bytes]).stream())) return frame;
  throw missing(saved);
}

/**
 * @param {import("../frames.js").Tensor} weights
 * @param {number} head
 */
function headOf({ shape, data }, head) {
  const size = (shape[1] ?? 0) * (shape[2] ?? 0);
  return data.subarray(head * size, (head + 1) * size);
}

/** @param {Saved} saved */
function missing({ about }) {
  return new SourceError(
    "not-saved",
    about.missing || "The page had not loaded it when the file was saved.",
  );
}

/** @param {any} value @returns {any} a copy whose objects have sorted names */
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  const names = Object.keys(value).sort();
  return Object.fromEntries(names.map((name) => [name, sorted(value[name])]));
}
