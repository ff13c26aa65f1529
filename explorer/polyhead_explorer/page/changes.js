/**
 * Return a function that returns whether any of its arguments differs from the previous call.
 * @returns {(...parts: unknown[]) => boolean}
 */
export function changes() {
  /** @type {unknown[] | null} */
  let last = null;
  return (...parts) => {
    const hasChanged = !last || parts.some((part, index) => part !== last?.[index]);
    last = parts;
    return hasChanged;
  };
}
