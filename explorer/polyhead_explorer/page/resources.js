/** What the page has loaded, and what it is loading: one of each name at a time. */

import { SourceError } from "./errors.js";

/**
 * @template T
 * @typedef {object} Resource
 * @property {string} key what was asked for last
 * @property {T | undefined} value what was loaded last; it stays while the next is loading
 * @property {boolean} isCurrent whether the value is, so far, what was asked for last
 * @property {boolean} isLoading
 * @property {boolean} isStopped whether the viewer stopped it
 * @property {SourceError | null} error
 */

/**
 * @template T
 * @callback Load
 * @param {AbortSignal} signal
 * @param {(part: T) => void} publish shows what has been loaded so far
 * @returns {Promise<T>}
 */

/** Kinds of errors after which a load is repeated, until it does not fail. */
const REPEATED = ["busy", "down", "gone"];
/**
 * After such an error it is repeated once, when the server answers a small question again: it may
 * have been stopped for a while, or it may have too much to compute for this one.
 */
const REPEATED_ONCE = "slow";
const REPEAT_AFTER_S = 1.5;

export class Resources {
  /** @type {Map<string, Entry<any>>} */
  #entries = new Map();
  #onChange;
  #ask;

  /**
   * @param {() => void} onChange is called when something has been loaded, or failed
   * @param {(signal: AbortSignal) => Promise<unknown>} ask a small question to the server
   */
  constructor(onChange, ask) {
    this.#onChange = onChange;
    this.#ask = ask;
  }

  /**
   * Return what is known of a resource, and begin to load it if another key was asked for before.
   * The load before it is then aborted.
   * @template T
   * @param {string} name
   * @param {unknown} key
   * @param {Load<T>} load
   * @param {{ keep?: number }} [options] keep: how many values are kept for when they are wanted
   *   again
   * @returns {Resource<T>}
   */
  need(name, key, load, { keep = 1 } = {}) {
    let entry = this.#entries.get(name);
    if (!entry) this.#entries.set(name, (entry = new Entry(keep, this.#onChange, this.#ask)));
    entry.want(JSON.stringify(key), load);
    return entry;
  }

  /**
   * Stop loading; what has been loaded so far stays.
   * @param {string} name
   */
  stop(name) {
    this.#entries.get(name)?.stop();
  }

  /** Load again what failed or was stopped. */
  repeatFailed() {
    for (const entry of this.#entries.values()) {
      if (entry.error || entry.isStopped) entry.repeat();
    }
  }

  /**
   * Return what there is of a resource that a view asked for; undefined: nothing, or not yet.
   * @param {string} name
   */
  valueOf(name) {
    const entry = this.#entries.get(name);
    return entry?.isCurrent ? entry.value : undefined;
  }

  /** @returns {SourceError[]} */
  errors() {
    return [...this.#entries.values()].flatMap(({ error }) => error ?? []);
  }
}

/**
 * @template T
 * @implements {Resource<T>}
 */
class Entry {
  key = "";
  /** @type {T | undefined} */
  value = undefined;
  isCurrent = false;
  isLoading = false;
  isStopped = false;
  /** @type {SourceError | null} */
  error = null;

  /** @type {Load<T> | null} */
  #load = null;
  /** @type {Map<string, T>} */
  #kept = new Map();
  #numKept;
  #onChange;
  #ask;
  #abort = new AbortController();
  #timer = 0;
  /** The key that was repeated because the server was slow. */
  #repeatedKey = "";

  /**
   * @param {number} numKept
   * @param {() => void} onChange
   * @param {(signal: AbortSignal) => Promise<unknown>} ask
   */
  constructor(numKept, onChange, ask) {
    this.#numKept = numKept;
    this.#onChange = onChange;
    this.#ask = ask;
  }

  /**
   * @param {string} key
   * @param {Load<T>} load
   */
  want(key, load) {
    if (key === this.key && this.#load) return;
    this.key = key;
    this.#load = load;
    const kept = this.#kept.get(key);
    if (kept === undefined) {
      void this.#run();
    } else {
      this.#begin();
      this.#set({ value: kept, isCurrent: true, isLoading: false });
    }
  }

  stop() {
    if (!this.isLoading) return;
    this.#abort.abort();
    this.#set({ isLoading: false, isStopped: true });
  }

  repeat() {
    void this.#run();
  }

  #begin() {
    clearTimeout(this.#timer);
    this.#abort.abort();
    this.#abort = new AbortController();
    this.isLoading = true;
    this.isStopped = false;
    this.isCurrent = false;
  }

  async #run() {
    this.#begin();
    const { signal } = this.#abort;
    const key = this.key;
    try {
      const value = await this.#load?.(signal, (part) => {
        if (!signal.aborted) this.#set({ value: part, isCurrent: true });
      });
      if (signal.aborted || value === undefined) return;
      this.#keep(key, value);
      this.#repeatedKey = "";
      this.#set({ value, isCurrent: true, isLoading: false });
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof SourceError)) throw error;
      if (REPEATED.includes(error.kind)) {
        error.isRepeated = true;
        const seconds = error.retryAfterS ?? REPEAT_AFTER_S;
        this.#timer = setTimeout(() => this.repeat(), seconds * 1000);
      } else if (error.kind === REPEATED_ONCE && this.#repeatedKey !== key) {
        error.isRepeated = true;
        void this.#repeatWhenAnswered(key, signal);
      }
      this.#set({ error, isLoading: false });
    }
  }

  /**
   * @param {string} key
   * @param {AbortSignal} signal
   */
  async #repeatWhenAnswered(key, signal) {
    for (;;) {
      try {
        await this.#ask(signal);
        break;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof SourceError)) throw error;
        await new Promise((resolve) => setTimeout(resolve, REPEAT_AFTER_S * 1000));
      }
    }
    if (signal.aborted) return;
    this.#repeatedKey = key;
    this.repeat();
  }

  /**
   * @param {string} key
   * @param {T} value
   */
  #keep(key, value) {
    this.#kept.delete(key);
    this.#kept.set(key, value);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= this.#numKept) break;
      this.#kept.delete(oldest);
    }
  }

  /** @param {Partial<Resource<T>>} changes the error goes unless there is a new one */
  #set(changes) {
    Object.assign(this, { error: null }, changes);
    this.#onChange();
  }
}
