/** One HTML file of what is shown, which works without a server: the page, and its answers. */

import { SourceError } from "../errors.js";
import { MAP_SIZE } from "../state.js";
import { keyOf, WEIGHTS } from "../offline/answers.js";
import { answerBytes, frames, questionsAsked } from "../transport.js";

/**
 * @typedef {import("../transport.js").Question} Question
 * @typedef {import("../source.js").Reading} Reading
 * @typedef {import("../source.js").Subject} Subject
 * @typedef {{ question: Question, bytes: Uint8Array<ArrayBuffer> }} Answer
 */

/** Most bytes of answers in a file. In base64 they are a third more. */
const MAX_BYTES = 24 << 20;
const HALF_BYTES = 2;
/** What a file answers otherwise: `models`, and of each text `reading` and the heads. */
const ANSWERED = ["models", "reading", "maps", "head", WEIGHTS];

/**
 * @typedef {object} Wanted
 * @property {string} hash the state that the file begins with
 * @property {import("../source.js").Model} model
 * @property {Map<Subject, Reading>} readings the texts that are shown
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
  const plans = [...readings].flatMap(([subject, reading]) =>
    reading.layers.map(({ num_heads }, number) => ({
      subject,
      layer: number,
      bytes: num_heads * reading.tokens.length ** 2 * HALF_BYTES,
    })),
  );
  plans.sort((a, b) => Number(b.layer === layer) - Number(a.layer === layer));
  let left = MAX_BYTES;
  const total = plans.length + 1;
  let done = 0;
  for (const subject of readings.keys()) {
    await save({ name: "reading", body: subject });
    if (subject.image) await save({ name: "picture", body: { image: subject.image } });
  }
  /** @type {Set<Subject>} */
  const partial = new Set();
  const kept = [];
  for (const plan of plans) {
    if (plan.bytes < left) {
      await save({ name: WEIGHTS, body: { ...plan.subject, layer: plan.layer } });
      kept.push(plan.layer);
    } else {
      partial.add(plan.subject);
    }
    onProgress(++done / total);
  }
  for (const subject of partial) {
    const reading = readings.get(subject);
    const names = [...new Set(kept)].sort((a, b) => a - b).map((n) => reading?.layers[n]?.name);
    const all = plans.reduce((sum, { bytes }) => sum + bytes, 0);
    missing.push(
      names.length
        ? `It holds the heads of layer ${names.join(", ")}; all would take ${megabytes(all)}.`
        : `It holds no head in full: all would take ${megabytes(all)}.`,
    );
    await save({
      name: "maps",
      body: { ...subject, hide: [], renormalise: false, size: MAP_SIZE },
    });
    await save({ name: "maps", body: { ...subject, ...shown, size: MAP_SIZE } });
  }
  const isAnswered = new Set(answers.map(({ question }) => keyOf(question)));
  const subjects = [...readings.keys()].map(textOf);
  const further = [...wanted.questions, ...questionsAsked().reverse()].filter(
    ({ name, body }) => !ANSWERED.includes(name) && body && subjects.includes(textOf(body)),
  );
  for (const question of further) {
    if (isAnswered.has(keyOf(question)) || left <= 0) continue;
    isAnswered.add(keyOf(question));
    await save(question).catch(unlessRefused);
  }
  missing.push(
    "Other texts and models, and what was not looked at before it was saved, need the explorer.",
  );
  const about = {
    hash: wanted.hash,
    made: `Saved on ${new Date().toISOString().slice(0, 10)}, model ${model.name}.`,
    missing: missing.join(" "),
    texts: [...readings.keys()].flatMap(({ text, image }) => (image ? [] : text)),
  };
  const html = fill(await shellOf(signal), about, await packed(answers));
  onProgress(1);
  return new Blob([html], { type: "text/html" });

  /** @param {Question} question */
  async function save(question) {
    const bytes = await answerBytes(question, signal);
    left -= bytes.length;
    answers.push({ question, bytes });
  }
}

/** @param {unknown} error what a view wanted may be impossible for this text */
function unlessRefused(error) {
  if (!(error instanceof SourceError) || error.kind === "gone") throw error;
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

/** @param {Record<string, any>} body */
function textOf({ model, version, text, image }) {
  return JSON.stringify([model, version, text, image]);
}

/** @param {number} bytes */
function megabytes(bytes) {
  return `${Math.ceil(bytes / (1 << 20))} MiB`;
}
