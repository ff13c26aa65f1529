/** The page: the state that the viewer chose, its data, and the views that show them. */

import { gather } from "./gather.js";
import { aboutFile } from "./offline/answers.js";
import { Pictures } from "./pictures.js";
import { Resources } from "./resources.js";
import { Source } from "./source.js";
import { readState, writeState } from "./state.js";
import { Theme } from "./theme.js";
import { VIEWS } from "./views/detail.js";
import { PANELS } from "./views/index.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./source.js").Model} Model
 * @typedef {import("./source.js").Head} Head
 * @typedef {import("./source.js").LayerMaps} LayerMaps
 * @typedef {import("./subject.js").Token} Token
 * @typedef {import("./subject.js").Subject} Subject
 * @typedef {import("./subject.js").Reading & { subject: Subject }} Reading
 */

/**
 * @template T
 * @typedef {import("./resources.js").Resource<T>} Resource
 */

/**
 * The data of the views. While a resource loads, its value is that of the previous state. So each
 * value states its text.
 * @typedef {object} Data
 * @property {Resource<Model[]>} models
 * @property {Model | null} model
 * @property {Resource<Reading> | null} reading
 * @property {Resource<{ reading: Reading, layers: LayerMaps[] }> | null} maps
 * @property {Resource<{ reading: Reading, head: Head }> | null} head
 * @property {boolean} isPicture whether a picture is read, not a text
 * @property {Resource<import("./pictures.js").Pixels> | null} picture in the size that the model takes
 * @property {{ layer: number, head: number }} place the chosen head
 * @property {number} token the chosen token; -1 means none
 * @property {number} partner the key of a ranked pair; in cross-attention also the chosen key
 * @property {number[]} hidden the hidden tokens
 * @property {number[]} hiddenKeys the hidden keys
 * @property {import("./source.js").Filter} filter the hidden tokens, in the form of a request
 * @property {import("./measures.js").Ranking | null} ranking
 * @property {number[]} sinks the keys with the most attention; empty until all layers have run
 */

/**
 * A part of the page. `mount` fills an element, and returns a function that shows a state. That
 * function is called after each change of the state or of the data.
 * @typedef {object} View
 * @property {string} id
 * @property {string} title
 * @property {(data: Data) => string} [heading] for views that are not about one head
 * @property {boolean} [isWide] whether it takes the place of the tables of numbers, because it has its own
 * @property {(root: HTMLElement, app: App) => (state: State, data: Data) => void} mount
 * @property {(data: Data) => boolean} [isFor] whether it can show this data; without it, it always can
 * @property {(app: App, data: Data) => import("./saving/numbers.js").Numbers[]} [numbers] the
 *   content of CSV and NPZ files; without it, the head's weights
 * @property {(state: State, data: Data) => import("./transport.js").Question[]} [questions]
 *   questions that an offline file answers, besides those that were asked before
 * @property {(state: State, data: Data) => Subject[]} [subjects] other texts that such a file contains
 */

/** The parts of the state that change the tokens. */
const TEXTS = /** @type {const} */ (["text", "textPair", "decoderText", "model", "attention"]);

export class App {
  source = new Source();
  /** The description of the file, if the page is a file; null if it is served. */
  file = aboutFile;
  state = readState(location.hash || (this.file?.hash ?? ""));
  /** @type {Data | null} the data that the views showed last */
  data = null;
  /** All views, including those of one head. */
  views = [...PANELS, ...VIEWS];
  resources = new Resources(
    () => this.refresh(),
    (signal) => this.source.models(signal),
  );
  pictures = new Pictures();
  theme = new Theme(() => this.refresh());
  /** @type {((state: State, data: Data) => void)[]} */
  #updates = [];
  #isWaiting = false;

  /**
   * Change the state.
   * @param {Partial<State>} changes
   */
  set(changes) {
    const isNewText = TEXTS.some((name) => name in changes);
    Object.assign(this.state, isNewText && { token: -1, pairKey: -1 }, changes);
    this.#writeAddress();
    this.refresh();
  }

  #writeAddress() {
    try {
      history.replaceState(null, "", writeState(this.state) || location.pathname);
    } catch {
      // a page inside a frame, as in notebooks, has no address
    }
  }

  /** Show the state at the next frame. */
  refresh() {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    requestAnimationFrame(() => {
      this.#isWaiting = false;
      const data = (this.data = gather(this, this.state));
      for (const update of this.#updates) update(this.state, data);
    });
  }

  start() {
    for (const { id, mount } of PANELS) {
      const root = document.getElementById(id);
      if (root) this.#updates.push(mount(root, this));
    }
    addEventListener("hashchange", () => {
      this.state = readState(location.hash);
      this.refresh();
    });
    this.refresh();
  }
}

new App().start();
