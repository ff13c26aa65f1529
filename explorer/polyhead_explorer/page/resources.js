/** Loads data, and caches it. Of each name, one value is shown and one load runs at a time. */

import { SourceError } from "./errors.js";

/**
 * @template T
 * @typedef {object} Resource
 * @property {string} key key of the last request
 * @property {T | undefined} value last loaded value, which stays while the next one loads
 * @property {boolean} isCurrent whether the value belongs to the last request, even if it is a part
 * @property {boolean} isLoading
 * @property {boolean} isStopped whether the viewer stopped it
 * @property {SourceError | null} error
 */

/**
 * @template T
 * @callback Load
 * @param {AbortSignal} signal
 * @param {(part: T) => void} publish shows a part of the value
 * @returns {Promise<T>}
 */

/** Kinds of errors after which a load is repeated until it succeeds. */
const REPEATED = ["busy", "down", "gone"];
/**
 * A kind of error after which a load is repeated once, when the server answers a small question
 * again. The server may have been paused, or the load may take too much time.
 */
const REPEATED_ONCE = "slow";
const REPEAT_AFTER_S = 1.5;

export class Resources {
  /** @type {Map<string, Entry<any>>} */
  #entries = new Map();
  #onChange;
  #ask;

  /**
   * @param {() => void} onChange is called after each load, part of a load, or failure
   * @param {(signal: AbortSignal) => Promise<unknown>} ask asks the server a small question
   */
  constructor(onChange, ask) {
    this.#onChange = onChange;
    this.#ask = ask;
  }

  /**
   * Return a resource. If its key differs from the last request, abort that load and begin to load
   * this one.
   * @template T
   * @param {string} name
   * @param {unknown} key
   * @param {Load<T>} load
   * @param {{ numCached?: number }} [options] numCached: most values that are cached
   * @returns {Resource<T>}
   */
  need(name, key, load, { numCached = 1 } = {}) {
    let entry = this.#entries.get(name);
    if (!entry) this.#entries.set(name, (entry = new Entry(numCached, this.#onChange, this.#ask)));
    entry.request(JSON.stringify(key), load);
    return entry;
  }

  /**
   * Stop loading. The part that is loaded stays.
   * @param {string} name
   */
  stop(name) {
    this.#entries.get(name)?.stop();
  }

  /** Repeat all loads that failed or were stopped. */
  repeatFailed() {
    for (const entry of this.#entries.values()) {
      if (entry.error || entry.isStopped) entry.repeat();
    }
  }

  /**
   * Return the current value of a resource; undefined if it was not requested or is not loaded yet.
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
  #cached = new Map();
  #numCached;
  #onChange;
  #ask;
  #abort = new AbortController();
  #timer = 0;
  /** The key whose load was repeated because the server was slow. */
  #repeatedKey = "";

  /**
   * @param {number} numCached
   * @param {() => void} onChange
   * @param {(signal: AbortSignal) => Promise<unknown>} ask
   */
  constructor(numCached, onChange, ask) {
    this.#numCached = numCached;
    this.#onChange = onChange;
    this.#ask = ask;
  }

  /**
   * @param {string} key
   * @param {Load<T>} load
   */
  request(key, load) {
    if (key === this.key && this.#load) return;
    this.key = key;
    this.#load = load;
    const cached = this.#cached.get(key);
    if (cached === undefined) {
      void this.#run();
    } else {
      this.#begin();
      this.#set({ value: cached, isCurrent: true, isLoading: false });
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
      this.#cache(key, value);
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
  #cache(key, value) {
    this.#cached.delete(key);
    this.#cached.set(key, value);
    for (const oldest of this.#cached.keys()) {
      if (this.#cached.size <= this.#numCached) break;
      this.#cached.delete(oldest);
    }
  }

  /** @param {Partial<Resource<T>>} changes without an error, the error becomes null */
  #set(changes) {
    Object.assign(this, { error: null }, changes);
    this.#onChange();
  }
}
