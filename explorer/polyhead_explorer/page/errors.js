/** Errors of what the page asks, in words. */

/** What failed, in words. resources.js says which kinds of calls the page repeats by itself. */
export class SourceError extends Error {
  /** Whether the page tries again by itself. */
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
