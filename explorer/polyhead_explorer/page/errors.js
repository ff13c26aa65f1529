/** Errors of questions, with messages for the viewer. */

/** An error of the explorer or the server. resources.js lists the kinds that the page retries. */
export class SourceError extends Error {
  /** Whether the page retries by itself. */
  isRepeated = false;

  /**
   * @param {string} kind
   * @param {string} message
   * @param {number | null} [retryAfterS]
   */
  constructor(kind, message, retryAfterS = null) {
    super(message);
    this.kind = kind;
    this.retryAfterS = retryAfterS;
  }
}

/** @param {{ kind: string, message: string, retry_after_s: number | null }} error */
export function toError({ kind, message, retry_after_s }) {
  return new SourceError(kind, message, retry_after_s);
}
