/** Makes a file of the page and its answers, which works without a server. */

import { SourceError } from "../errors.js";
import { MAP_SIZE } from "../state.js";
import { keyOf, WEIGHTS } from "../offline/answers.js";
import { answerBytes, frames, pastQuestions } from "../transport.js";

/**
 * @typedef {import("../transport.js").Question} Question
 * @typedef {import("../subject.js").Reading} Reading
 * @typedef {import("../subject.js").Subject} Subject
 * @typedef {{ question: Question, bytes: Uint8Array<ArrayBuffer> }} Answer
 */

/** Most bytes of answers in a file. Base64 makes them a third larger. */
const MAX_BYTES = 24 << 20;
const HALF_BYTES = 2;
const MAX_TEXT = 40;
/** Endpoints whose answers are added for each text, or computed, and not by past questions. */
const ADDED_OR_COMPUTED = ["models", "reading", "maps", "head", "pair", WEIGHTS];

/**
 * @typedef {object} FileContent
 * @property {string} hash the state that the page shows first
 * @property {import("../source.js").Model} model
 * @property {Map<Subject, Reading>} readings the texts in the file, the shown one first
 * @property {number} layer the shown layer, which is saved first
 * @property {import("../source.js").Filter} filter
 * @property {Question[]} questions further questions of the views
 */

/**
 * Make the file. Raises SourceError.
 * @param {FileContent} content
 * @param {{ signal: AbortSignal, onProgress: (share: number) => void }} options
 */
export async function makeOfflineFile(content, { signal, onProgress }) {
  const { model, readings, layer, filter } = content;
  const models = { name: "models", body: null };
  /** @type {Answer[]} */
  const answers = [{ question: models, bytes: headerFrame({ models: [model] }) }];
  const missing = [];
  let freeBytes = MAX_BYTES;
  const numLayers = [...readings.values()].reduce((sum, { layers }) => sum + layers.length, 0);
  let done = 0;
  for (const [subject, reading] of readings) {
    await save({ name: "reading", body: subject });
    if (subject.image) await save({ name: "picture", body: { image: subject.image } });
    /** @type {number[]} */
    const saved = [];
    for (const number of inOrder(reading.layers.length, layer)) {
      if (bytesOf(reading, number) <= freeBytes) {
        freeBytes -= await save({ name: WEIGHTS, body: { ...subject, layer: number } });
        saved.push(number);
      }
      onProgress(++done / (numLayers + 1));
    }
    if (saved.length === reading.layers.length) continue;
    missing.push(partsOf(subject, reading, saved));
    for (const each of [{ hide: [], renormalise: false }, filter]) {
      freeBytes -= await save({ name: "maps", body: { ...subject, ...each, size: MAP_SIZE } });
    }
  }
  const isAnswered = new Set(answers.map(({ question }) => keyOf(question)));
  const subjects = [...readings.keys()].map(subjectKey);
  const further = [...content.questions, ...pastQuestions().reverse()].filter(
    ({ name, body }) =>
      !ADDED_OR_COMPUTED.includes(name) && body && subjects.includes(subjectKey(body)),
  );
  for (const question of further) {
    if (isAnswered.has(keyOf(question)) || freeBytes <= 0) continue;
    isAnswered.add(keyOf(question));
    freeBytes -= (await save(question).catch(unlessRefused)) ?? 0;
  }
  missing.push(
    "Other texts and models, and views that were not opened before saving, need the explorer.",
  );
  const about = {
    hash: content.hash,
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

/** @param {unknown} error a question may be impossible for this text; it is then left out */
function unlessRefused(error) {
  if (!(error instanceof SourceError) || error.kind === "gone") throw error;
}

/**
 * Return the numbers of the layers, beginning with the shown one.
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
 * Return a sentence on the layers of a text in the file.
 * @param {Subject} subject
 * @param {Reading} reading
 * @param {number[]} saved
 */
function partsOf({ text }, reading, saved) {
  const all = reading.layers.reduce((sum, _, number) => sum + bytesOf(reading, number), 0);
  const names = saved.sort((a, b) => a - b).map((number) => reading.layers[number]?.name);
  const what = names.length ? `the heads of layer ${names.join(", ")}` : "no head in full";
  const start = text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text;
  return `For “${start || "the picture"}” it contains ${what}; all heads would take ${megabytes(all)}.`;
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
  const text = JSON.stringify(about).replaceAll("<", "\\u003c"); // so that no text can end the element
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
 * Return a key of a subject, which is the same for questions about this subject.
 * @param {Record<string, any>} body
 */
export function subjectKey({ model, version, text, text_pair, image, attention, decoder_text }) {
  return JSON.stringify([model, version, text, text_pair, image, attention, decoder_text]);
}

/** @param {number} bytes */
function megabytes(bytes) {
  return `${Math.ceil(bytes / (1 << 20))} MiB`;
}
