/** The page: what the viewer chose, what that needs, and the views that show it. */

import { choosePartner, rankingOf, rankingOfMaps } from "./measures.js";
import { aboutFile } from "./offline/answers.js";
import { Pictures } from "./pictures.js";
import { Resources } from "./resources.js";
import { Source } from "./source.js";
import { MAP_SIZE, readState, writeState } from "./state.js";
import { Theme } from "./theme.js";
import { VIEWS } from "./views/detail.js";
import { PANELS } from "./views/index.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./source.js").Model} Model
 * @typedef {import("./source.js").Token} Token
 * @typedef {import("./source.js").Head} Head
 * @typedef {import("./source.js").LayerMaps} LayerMaps
 * @typedef {import("./source.js").Subject} Subject
 * @typedef {import("./source.js").Reading & { subject: Subject }} Reading
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
 * @property {number} partner the token that a ranked pair goes to
 * @property {number[]} hidden the tokens that are left out
 * @property {import("./source.js").Shown} shown which tokens are left out, as the source is asked
 * @property {import("./measures.js").Ranking | null} ranking
 * @property {number[]} sinks the tokens that draw most attention; empty until all layers have run
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

const KEPT_HEADS = 24;
const SINK_SHARE = 0.25;

export class App {
  source = new Source();
  /** What the file that the page is says about itself; null: the page is served. */
  file = aboutFile;
  state = readState(location.hash || (this.file?.hash ?? ""));
  /** @type {Data | null} what the views showed last */
  data = null;
  /** All views, those of one head too. */
  views = [...PANELS, ...VIEWS];
  resources = new Resources(() => this.refresh());
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
    const isOther = "text" in changes || "model" in changes;
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

/**
 * Ask for what a state needs, and return what there is of it.
 * @param {App} app
 * @param {State} state
 * @returns {Data}
 */
function gather(app, state) {
  const { source, resources } = app;
  const models = resources.need("models", null, (signal) => source.models(signal));
  const model = chooseModel(models.value ?? [], state.model);
  /** @type {Data} */
  const data = {
    models,
    model,
    reading: null,
    maps: null,
    head: null,
    isPicture: false,
    picture: null,
    place: { layer: 0, head: 0 },
    token: -1,
    partner: -1,
    hidden: [],
    shown: { hide: [], renormalise: false },
    ranking: null,
    sinks: [],
  };
  if (!model) return data;

  data.isPicture = Boolean(model.picture && (state.picture || !model.takes_text));
  const image = data.isPicture ? needImage(app, state, model) : null;
  if (image === "") return data;
  const subject = image
    ? { model: model.name, version: model.version, text: "", image }
    : { model: model.name, version: model.version, text: state.text };
  if (image) {
    data.picture = resources.need("picture", { image }, (signal) => source.picture(image, signal));
  }
  data.reading = resources.need("reading", subject, async (signal) => ({
    ...(await source.reading(subject, signal)),
    subject,
  }));
  const reading = data.reading.value;
  if (!reading || !data.reading.isCurrent) return data;

  data.token = chooseToken(reading.tokens, state.token);
  data.partner = choosePartner(reading.tokens, state.pairKey, data.token);
  const all = { hide: [], renormalise: false };
  const maps = needMaps("maps", all);
  data.sinks = maps.isCurrent && !maps.isLoading && maps.value ? findSinks(maps.value) : [];
  data.hidden = reading.tokens.flatMap(({ is_special }, index) => {
    const isHidden =
      (state.hideSpecial && is_special) || (state.hideSinks && data.sinks.includes(index));
    return isHidden ? index : [];
  });
  const shown = data.hidden.length ? { hide: data.hidden, renormalise: state.renormalise } : all;
  data.shown = shown;
  const name = shown === all ? "maps" : "shown maps";
  data.maps = shown === all ? maps : needMaps(name, shown);
  data.ranking =
    state.measure === "pair"
      ? needPair({ query: data.token, key: data.partner })
      : rankingOfMaps(state.measure, data.maps, reading.layers.length, name);

  const layer = Math.min(state.layer, reading.layers.length - 1);
  const head = Math.min(state.head, (reading.layers[layer]?.num_heads ?? 1) - 1);
  const place = { layer, head };
  data.place = place;
  data.head = resources.need(
    "head",
    { subject, place, shown },
    async (signal) => ({ reading, head: await source.head(subject, place, shown, signal) }),
    { keep: KEPT_HEADS },
  );
  return data;

  /**
   * @param {string} name
   * @param {import("./source.js").Shown} shown
   */
  function needMaps(name, shown) {
    const current = /** @type {Reading} */ (reading);
    return resources.need(name, { subject, shown }, async (signal, publish) => {
      /** @type {LayerMaps[]} */
      const layers = [];
      for await (const layer of source.maps(subject, shown, MAP_SIZE, signal)) {
        layers.push(layer);
        publish({ reading: current, layers });
      }
      return { reading: current, layers };
    });
  }

  /** @param {{ query: number, key: number }} pair */
  function needPair(pair) {
    const { shown } = data;
    const numLayers = reading?.layers.length ?? 0;
    /** @type {import("./measures.js").Ranking["layers"]} */
    const unknown = Array.from({ length: numLayers });
    if (shown.hide.includes(pair.query) || shown.hide.includes(pair.key)) {
      return rankingOf("pair", unknown, null, "");
    }
    const found = resources.need("pair", { subject, shown, pair }, async (signal, publish) => {
      const layers = [...unknown];
      let layer = 0;
      for await (const weights of source.pair(subject, shown, pair, signal)) {
        layers[layer++] = weights;
        publish(layers);
      }
      return layers;
    });
    const layers = found.isCurrent ? found.value : undefined;
    return rankingOf("pair", layers ?? unknown, found, "pair");
  }
}

/**
 * Return the name of the picture that is read; "" while the explorer is given it.
 * @param {App} app
 * @param {State} state
 * @param {Model} model
 */
function needImage(app, state, model) {
  const { source, resources, pictures } = app;
  if (state.image) return state.image;
  const form = model.picture;
  if (!form) return "";
  const upload = resources.need("upload", { form, number: pictures.number }, (signal) =>
    source.upload(pictures.inForm(form), signal),
  );
  const image = (upload.isCurrent && upload.value) || "";
  if (image && pictures.name) app.set({ image }); // a link then restores it
  return image;
}

/**
 * @param {Model[]} models
 * @param {string} name
 */
function chooseModel(models, name) {
  const shown = models.filter(({ reason }) => !reason);
  const named = shown.filter((model) => model.name === name);
  return named.at(-1) ?? shown[0] ?? null; // of several versions the newest
}

/**
 * Return the token that was chosen, or else the one that the sentences are about.
 * @param {Token[]} tokens
 * @param {number} chosen
 */
function chooseToken(tokens, chosen) {
  if (chosen >= 0 && chosen < tokens.length) return chosen;
  const bank = tokens.findIndex(({ text }) => text.toLowerCase() === "bank");
  return bank >= 0 ? bank : tokens.findIndex(({ is_special }) => !is_special);
}

/**
 * Find the tokens that get more than a quarter of all attention: the mean over layers, heads, and
 * the tokens that see them.
 * @param {{ reading: Reading, layers: LayerMaps[] }} maps
 */
function findSinks({ reading, layers }) {
  const numTokens = reading.tokens.length;
  const numHeads = layers.reduce((sum, layer) => sum + layer.numHeads, 0);
  const received = new Float64Array(numTokens);
  for (const layer of layers) {
    layer.received.forEach((mean, index) => {
      received[index % numTokens] = (received[index % numTokens] ?? 0) + mean / numHeads;
    });
  }
  return [...received.keys()].filter((index) => (received[index] ?? 0) > SINK_SHARE);
}

new App().start();
