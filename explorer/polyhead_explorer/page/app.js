/** The page: what the viewer chose, what that needs, and the views that show it. */

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
 * What the views show. Values of resources may be those of the state before, while the new ones
 * are loading, so each value says itself which text it is of.
 * @typedef {object} Data
 * @property {Resource<Model[]>} models
 * @property {Model | null} model
 * @property {Resource<Reading> | null} reading
 * @property {Resource<{ reading: Reading, layers: LayerMaps[] }> | null} maps
 * @property {Resource<{ reading: Reading, head: Head }> | null} head
 * @property {boolean} isPicture whether a picture is read, not a text
 * @property {Resource<import("./pictures.js").Pixels> | null} picture as the model is given it
 * @property {{ layer: number, head: number }} place the head that is looked at
 * @property {number} token the token that is looked at; -1: none
 * @property {number} partner the key that a ranked pair goes to, and in another text the key that
 *   is looked at
 * @property {number[]} hidden the tokens that are left out
 * @property {number[]} hiddenKeys the keys that are left out
 * @property {import("./source.js").Shown} shown which tokens are left out, as the source is asked
 * @property {import("./measures.js").Ranking | null} ranking
 * @property {number[]} sinks the keys that draw most attention; empty until all layers have run
 */

/**
 * A part of the page. `mount` fills an element, and returns what shows a state; it is called after
 * each change of the state or of the data.
 * @typedef {object} View
 * @property {string} id
 * @property {string} title
 * @property {(data: Data) => string} [heading] where it is not about one head
 * @property {boolean} [isWide] whether it has the numbers itself, and takes their place
 * @property {(root: HTMLElement, app: App) => (state: State, data: Data) => void} mount
 * @property {(data: Data) => boolean} [isFor] whether it can show what is read; without it, it can
 * @property {(app: App, data: Data) => import("./saving/numbers.js").Numbers[]} [numbers] what CSV
 *   and NPZ files get; without it, the head's weights
 * @property {(state: State, data: Data) => import("./transport.js").Question[]} [questions] what an
 *   offline file answers, besides what has been asked already
 * @property {(state: State, data: Data) => Subject[]} [subjects] other texts that such a file holds
 */

/** What changes the tokens. */
const TEXTS = /** @type {const} */ (["text", "decoderText", "model", "attention"]);

export class App {
  source = new Source();
  /** What the file that the page is says about itself; null: the page is served. */
  file = aboutFile;
  state = readState(location.hash || (this.file?.hash ?? ""));
  /** @type {Data | null} what the views showed last */
  data = null;
  /** All views, those of one head too. */
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
   * Change what the viewer has chosen.
   * @param {Partial<State>} changes
   */
  set(changes) {
    const isOther = TEXTS.some((name) => name in changes);
    Object.assign(this.state, isOther && { token: -1, pairKey: -1 }, changes);
    this.#writeAddress();
    this.refresh();
  }

  #writeAddress() {
    try {
      history.replaceState(null, "", writeState(this.state) || location.pathname);
    } catch {
      // Pages within others, as in notebooks, have no address of their own.
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
