/** One HTML file of what is shown, which works without a server: the page, and its answers. */

import { SourceError } from "../errors.js";
import { MAP_SIZE } from "../state.js";
import { keyOf, WEIGHTS } from "../offline/answers.js";
import { answerBytes, frames, questionsAsked } from "../transport.js";

/**
 * @typedef {import("../transport.js").Question} Question
 * @typedef {import("../subject.js").Reading} Reading
 * @typedef {import("../subject.js").Subject} Subject
 * @typedef {{ question: Question, bytes: Uint8Array<ArrayBuffer> }} Answer
 */

/** Most bytes of answers in a file. In base64 they are a third more. */
const MAX_BYTES = 24 << 20;
const HALF_BYTES = 2;
const MAX_TEXT = 40;
/** What a file answers otherwise: `models`, and of each text `reading` and the heads. */
const ANSWERED = ["models", "reading", "maps", "head", "pair", WEIGHTS];

/**
 * @typedef {object} Wanted
 * @property {string} hash the state that the file begins with
 * @property {import("../source.js").Model} model
 * @property {Map<Subject, Reading>} readings the texts that are shown, the viewer's own first
 * @property {number} layer the layer that is shown: the first to be saved
 * @property {import("../source.js").Shown} shown
 * @property {Question[]} questions what the views want to be answered besides
 */

/**
 * Make the file. Raises SourceError.
 * @param {Wanted} wanted
 * @param {{ signal: AbortSignal, onProgress: (done: number) => void }} options done: share of it
 */
export async function makeOfflineFile(wanted, { signal, onProgress }) {
  const { model, readings, layer, shown } = wanted;
  const listed = { name: "models", body: null };
  /** @type {Answer[]} */
  const answers = [{ question: listed, bytes: headerFrame({ models: [model] }) }];
  const missing = [];
  let left = MAX_BYTES;
  const numLayers = [...readings.values()].reduce((sum, { layers }) => sum + layers.length, 0);
  let done = 0;
  for (const [subject, reading] of readings) {
    await save({ name: "reading", body: subject });
    if (subject.image) await save({ name: "picture", body: { image: subject.image } });
    /** @type {number[]} */
    const kept = [];
    for (const number of inOrder(reading.layers.length, layer)) {
      if (bytesOf(reading, number) <= left) {
        left -= await save({ name: WEIGHTS, body: { ...subject, layer: number } });
        kept.push(number);
      }
      onProgress(++done / (numLayers + 1));
    }
    if (kept.length === reading.layers.length) continue;
    missing.push(partsOf(subject, reading, kept));
    for (const each of [{ hide: [], renormalise: false }, shown]) {
      left -= await save({ name: "maps", body: { ...subject, ...each, size: MAP_SIZE } });
    }
  }
  const isAnswered = new Set(answers.map(({ question }) => keyOf(question)));
  const subjects = [...readings.keys()].map(subjectKey);
  const further = [...wanted.questions, ...questionsAsked().reverse()].filter(
    ({ name, body }) => !ANSWERED.includes(name) && body && subjects.includes(subjectKey(body)),
  );
  for (const question of further) {
    if (isAnswered.has(keyOf(question)) || left <= 0) continue;
    isAnswered.add(keyOf(question));
    left -= (await save(question).catch(unlessRefused)) ?? 0;
  }
  missing.push(
    "Other texts and models, and what was not looked at before it was saved, need the explorer.",
  );
  const about = {
    hash: wanted.hash,
    made: `Saved on ${new Date().toISOString().slice(0, 10)}, model ${model.name}.`,
    missing: missing.join(" "),
    endpoints: [...new Set(answers.map(({ question }) => question.name))],
    attentions: [...readings.keys()].map(({ attention }) => attention ?? "encoder"),
    texts: [...new Set([...readings.keys()].flatMap(({ text, image }) => (image ? [] : text)))],
  };
  const html = fill(await shellOf(signal), about, await packed(answers));
  return new Blob([html], { type: "text/html" });

  /** @param {Question} question */
  async function save(question) {
    const bytes = await answerBytes(question, signal);
    answers.push({ question, bytes });
    return bytes.length;
  }
}

/** @param {unknown} error what a view wanted may be impossible for this text */
function unlessRefused(error) {
  if (!(error instanceof SourceError) || error.kind === "gone") throw error;
}

/**
 * Return the numbers of layers, the one that is shown first.
 * @param {number} count
 * @param {number} shown
 */
function inOrder(count, shown) {
  const others = [...Array(count).keys()].filter((number) => number !== shown);
  return shown < count ? [shown, ...others] : others;
}

/**
 * @param {Reading} reading
 * @param {number} layer
 */
function bytesOf({ layers, tokens, keys }, layer) {
  return (layers[layer]?.num_heads ?? 0) * tokens.length * keys.length * HALF_BYTES;
}

/**
 * Say which layers of a text are in the file.
 * @param {Subject} subject
 * @param {Reading} reading
 * @param {number[]} kept
 */
function partsOf({ text }, reading, kept) {
  const all = reading.layers.reduce((sum, _, number) => sum + bytesOf(reading, number), 0);
  const names = kept.sort((a, b) => a - b).map((number) => reading.layers[number]?.name);
  const what = names.length ? `the heads of layer ${names.join(", ")}` : "no head in full";
  const start = text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text;
  return `Of “${start || "the picture"}” it holds ${what}; all would take ${megabytes(all)}.`;
}

const MARK = "<!-- answers -->";

/** @param {AbortSignal} signal */
async function shellOf(signal) {
  for await (const { header } of frames("shell", null, signal)) return String(header.html);
  return "";
}

/**
 * @param {string} shell
 * @param {import("../offline/answers.js").About} about
 * @param {string} answers
 */
function fill(shell, about, answers) {
  const text = JSON.stringify(about).replaceAll("<", "\\u003c"); // it cannot end its element
  return shell.replace(
    MARK,
    () =>
      `<script type="application/json" id="about">${text}</script>` +
      `<script type="text/plain" id="answers">${answers}</script>`,
  );
}

/**
 * Pack answers as offline/answers.js reads them.
 * @param {Answer[]} answers
 */
async function packed(answers) {
  const parts = answers.flatMap(({ question, bytes }) => {
    const head = new TextEncoder().encode(JSON.stringify({ ...question, size: bytes.length }));
    return [uint32(head.length), head, bytes];
  });
  const stream = new Blob(parts).stream().pipeThrough(new CompressionStream("gzip"));
  const blob = await new Response(stream).blob();
  const reader = new FileReader();
  await new Promise((resolve, reject) => {
    reader.onload = resolve;
    reader.onerror = reject;
    reader.readAsDataURL(blob);
  });
  return String(reader.result).replace(/^[^,]*,/, "");
}

/** @param {object} header of a frame without arrays */
function headerFrame(header) {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(4 + text.length);
  bytes.set(uint32(text.length));
  bytes.set(text, 4);
  return bytes;
}

/** @param {number} value */
function uint32(value) {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

/**
 * Return what differs between two subjects, also where a question is about them.
 * @param {Record<string, any>} body
 */
export function subjectKey({ model, version, text, image, attention, decoder_text: decoderText }) {
  return JSON.stringify([model, version, text, image, attention, decoderText]);
}

/** @param {number} bytes */
function megabytes(bytes) {
  return `${Math.ceil(bytes / (1 << 20))} MiB`;
}
