/** How the page asks: the explorer that serves it, or in a saved file the answers it holds. */

import { SourceError, toError } from "./errors.js";
import { readFrames } from "./frames.js";
import { answer, savedAnswers } from "./offline/answers.js";

/** @typedef {import("./frames.js").Frame} Frame */

/**
 * @typedef {object} Question
 * @property {string} name of an endpoint
 * @property {Record<string, any> | null} body null: the endpoint takes nothing
 */

/** The answers of the file that the page is; null: it is served. */
export const saved = savedAnswers();

const MAX_ASKED = 1000;
/** @type {Map<string, Question>} */
const asked = new Map();

/** What has been asked, the latest last. */
export function questionsAsked() {
  return [...asked.values()];
}

/**
 * Ask an endpoint, and yield its frames. Raises SourceError.
 * @param {string} name
 * @param {object | null} body null: the endpoint takes nothing
 * @param {AbortSignal} signal closing the request ends the work for it on the server too
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
    throw described(error);
  }
}

/**
 * Ask an endpoint, and return all its frames as they were sent. Raises SourceError.
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
    throw described(error);
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
  if (question.name === "upload") return; // it is asked for again by its name
  const key = JSON.stringify(question);
  asked.delete(key);
  asked.set(key, question);
  const oldest = asked.keys().next().value;
  if (asked.size > MAX_ASKED && oldest !== undefined) asked.delete(oldest);
}

/** @param {unknown} error */
function described(error) {
  return error instanceof TypeError
    ? new SourceError(
        "gone",
        "The explorer does not answer. Start polyhead explore again; the page then goes on.",
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
