/** Errors of what the page asks, in words. */

/** The page repeats calls of the kinds "busy", "down" and "gone" by itself. */
export class SourceError extends Error {
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
