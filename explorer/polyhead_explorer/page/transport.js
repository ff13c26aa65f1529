/** Asks the explorer that serves the page, or in a saved file finds the answers in it. */

import { SourceError, toError } from "./errors.js";
import { readFrames } from "./frames.js";
import { answer, savedAnswers } from "./offline/answers.js";

/** @typedef {import("./frames.js").Frame} Frame */

/**
 * @typedef {object} Question
 * @property {string} name of an endpoint
 * @property {Record<string, any> | null} body null if the endpoint takes no object
 */

/** The answers of the file, if the page is a file; null if it is served. */
export const saved = savedAnswers();

const MAX_QUESTIONS = 1000;
/** @type {Map<string, Question>} */
const questions = new Map();

/** Return the questions that were asked, the latest last. */
export function pastQuestions() {
  return [...questions.values()];
}

/**
 * Ask an endpoint, and yield its frames. Raises SourceError.
 * @param {string} name
 * @param {object | null} body null if the endpoint takes no object
 * @param {AbortSignal} signal aborting the request also ends its work on the server
 * @returns {AsyncGenerator<Frame, void, void>}
 */
export async function* frames(name, body, signal) {
  if (saved) {
    yield* answer(await saved, { name, body }, signal);
    return;
  }
  remember({ name, body });
  try {
    const response = await ask({ name, body }, signal);
    if (!response.body) return;
    for await (const frame of readFrames(response.body)) {
      if (frame.header.error) throw toError(frame.header.error);
      yield frame;
    }
  } catch (error) {
    throw toSourceError(error);
  }
}

/**
 * Ask an endpoint, and return the bytes of all its frames. Raises SourceError.
 * @param {Question} question
 * @param {AbortSignal} signal
 */
export async function answerBytes(question, signal) {
  try {
    const response = await ask(question, signal);
    const bytes = new Uint8Array(await response.arrayBuffer());
    for await (const { header } of readFrames(new Blob([bytes]).stream())) {
      if (header.error) throw toError(header.error);
    }
    return bytes;
  } catch (error) {
    throw toSourceError(error);
  }
}

/**
 * @param {Question} question
 * @param {AbortSignal} signal
 */
async function ask({ name, body }, signal) {
  const response = await fetch(`api/${name}`, {
    signal,
    ...(body && {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    }),
  });
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** @param {Question} question */
function remember(question) {
  if (question.name === "upload") return; // saved files have its picture by its name
  const key = JSON.stringify(question);
  questions.delete(key);
  questions.set(key, question);
  const oldest = questions.keys().next().value;
  if (questions.size > MAX_QUESTIONS && oldest !== undefined) questions.delete(oldest);
}

/** @param {unknown} error */
function toSourceError(error) {
  return error instanceof TypeError
    ? new SourceError(
        "gone",
        "The explorer does not answer. Start polyhead explore again, and the page continues.",
      )
    : error;
}

/** @param {Response} response */
async function errorOf(response) {
  const body = await response.json().catch(() => null);
  return body?.error
    ? toError(body.error)
    : new SourceError("explorer", `The explorer answered ${response.status}.`);
}
