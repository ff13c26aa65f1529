/** What a state needs: asked for where it is missing, and returned as far as it is there. */

import { SourceError } from "./errors.js";
import { chooseMeasure, choosePartner, rankingOf, rankingOfMaps } from "./measures.js";
import { MAP_SIZE } from "./state.js";
import { textSubject } from "./subject.js";

/**
 * @typedef {import("./app.js").App} App
 * @typedef {import("./app.js").Data} Data
 * @typedef {import("./app.js").Reading} Reading
 * @typedef {import("./app.js").Token} Token
 * @typedef {import("./source.js").LayerMaps} LayerMaps
 * @typedef {import("./source.js").Model} Model
 * @typedef {import("./source.js").Shown} Shown
 * @typedef {import("./state.js").State} State
 * @typedef {import("./subject.js").Subject} Subject
 */

const EMPTY = "Type or paste one, or choose a sentence.";
const KEPT_HEADS = 24;
const SINK_SHARE = 0.25;

/**
 * Ask for what a state needs, and return what there is of it.
 * @param {App} app
 * @param {State} state
 * @returns {Data}
 */
export function gather(app, state) {
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
    hiddenKeys: [],
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
    : textSubject(model, state);
  if (image) {
    data.picture = resources.need("picture", { image }, (signal) => source.picture(image, signal));
  }
  data.reading = resources.need("reading", subject, async (signal) => {
    if (!image && !subject.text.trim()) throw new SourceError("empty", EMPTY);
    return { ...(await source.reading(subject, signal)), subject };
  });
  const reading = data.reading.value;
  if (!reading || !data.reading.isCurrent) return data;
  gatherWeights(app, state, data, reading);
  return data;
}

/**
 * Add what there is of a reading's weights.
 * @param {App} app
 * @param {State} state
 * @param {Data} data
 * @param {Reading} reading
 */
function gatherWeights({ source, resources }, state, data, reading) {
  const { subject, tokens, keys, isCross } = reading;
  data.token = chooseToken(tokens, state.token);
  data.partner = choosePartner(keys, state.pairKey, isCross ? null : data.token);
  const all = { hide: [], renormalise: false };
  const maps = needMaps("maps", all);
  data.sinks = maps.isCurrent && !maps.isLoading && maps.value ? findSinks(maps.value) : [];
  data.hiddenKeys = hiddenAmong(keys, state, data.sinks);
  data.hidden = isCross ? hiddenAmong(tokens, state, []) : data.hiddenKeys;
  const isShown = !data.hidden.length && !data.hiddenKeys.length;
  const shown = isShown ? all : shownOf(state, data, isCross);
  data.shown = shown;
  const name = isShown ? "maps" : "shown maps";
  data.maps = isShown ? maps : needMaps(name, shown);
  const measure = chooseMeasure(state.measure, isCross);
  data.ranking =
    measure === "pair"
      ? needPair({ query: data.token, key: data.partner })
      : rankingOfMaps(measure, data.maps, reading, name);

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

  /**
   * @param {string} resource
   * @param {Shown} what
   */
  function needMaps(resource, what) {
    return resources.need(resource, { subject, shown: what }, async (signal, publish) => {
      /** @type {LayerMaps[]} */
      const layers = [];
      for await (const found of source.maps(subject, what, MAP_SIZE, signal)) {
        layers.push(found);
        publish({ reading, layers });
      }
      return { reading, layers };
    });
  }

  /** @param {{ query: number, key: number }} pair */
  function needPair(pair) {
    /** @type {import("./measures.js").Ranking["layers"]} */
    const unknown = Array.from({ length: reading.layers.length });
    if (data.hidden.includes(pair.query) || data.hiddenKeys.includes(pair.key)) {
      return rankingOf("pair", unknown, null, "");
    }
    const found = resources.need("pair", { subject, shown, pair }, async (signal, publish) => {
      const layers = [...unknown];
      let number = 0;
      for await (const weights of source.pair(subject, shown, pair, signal)) {
        layers[number++] = weights;
        publish(layers);
      }
      return layers;
    });
    const layers = found.isCurrent ? found.value : undefined;
    return rankingOf("pair", layers ?? unknown, found, "pair");
  }
}

/**
 * Return the tokens that the viewer does not want to see.
 * @param {Token[]} tokens
 * @param {State} state
 * @param {number[]} sinks
 */
function hiddenAmong(tokens, { hideSpecial, hideSinks }, sinks) {
  return tokens.flatMap(({ is_special }, index) =>
    (hideSpecial && is_special) || (hideSinks && sinks.includes(index)) ? index : [],
  );
}

/**
 * Say which tokens are left out, as the source is asked.
 * @param {State} state
 * @param {Data} data
 * @param {boolean} isCross
 * @returns {Shown}
 */
function shownOf({ renormalise }, { hidden, hiddenKeys }, isCross) {
  return { hide: hidden, ...(isCross && { hide_keys: hiddenKeys }), renormalise };
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
  const numKeys = reading.keys.length;
  const numHeads = layers.reduce((sum, layer) => sum + layer.numHeads, 0);
  const received = new Float64Array(numKeys);
  for (const layer of layers) {
    layer.received.forEach((mean, index) => {
      received[index % numKeys] = (received[index % numKeys] ?? 0) + mean / numHeads;
    });
  }
  return [...received.keys()].filter((index) => (received[index] ?? 0) > SINK_SHARE);
}
