/** Requests the data that a state needs, and returns the data that is loaded so far. */

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
 * @typedef {import("./source.js").Filter} Filter
 * @typedef {import("./state.js").State} State
 * @typedef {import("./subject.js").Subject} Subject
 */

const EMPTY = "Type or paste one, or choose a sentence.";
const MAX_CACHED_HEADS = 24;
const SINK_SHARE = 0.25;
/** @type {Filter} */
const NOTHING_HIDDEN = { hide: [], renormalise: false };

/**
 * Request the data that a state needs, and return the data that is loaded so far.
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
    filter: NOTHING_HIDDEN,
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
 * Add the loaded weights of a reading.
 * @param {App} app
 * @param {State} state
 * @param {Data} data
 * @param {Reading} reading
 */
function gatherWeights({ source, resources }, state, data, reading) {
  const { subject, tokens, keys, isCross } = reading;
  data.token = chooseToken(tokens, state.token);
  data.partner = choosePartner(keys, state.pairKey, isCross ? null : data.token);
  const maps = needMaps("maps", NOTHING_HIDDEN);
  data.sinks = maps.isCurrent && !maps.isLoading && maps.value ? findSinks(maps.value) : [];
  data.hiddenKeys = hiddenAmong(keys, state, data.sinks);
  data.hidden = isCross ? hiddenAmong(tokens, state, []) : data.hiddenKeys;
  const isComplete = !data.hidden.length && !data.hiddenKeys.length;
  const filter = isComplete ? NOTHING_HIDDEN : filterOf(state, data, isCross);
  data.filter = filter;
  const name = isComplete ? "maps" : "filtered maps";
  data.maps = isComplete ? maps : needMaps(name, filter);
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
    { subject, place, filter },
    async (signal) => ({ reading, head: await source.head(subject, place, filter, signal) }),
    { numCached: MAX_CACHED_HEADS },
  );

  /**
   * @param {string} resource
   * @param {Filter} mapFilter
   */
  function needMaps(resource, mapFilter) {
    return resources.need(resource, { subject, filter: mapFilter }, async (signal, publish) => {
      /** @type {LayerMaps[]} */
      const layers = [];
      for await (const layer of source.maps(subject, mapFilter, MAP_SIZE, signal)) {
        layers.push(layer);
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
    const resource = resources.need("pair", { subject, filter, pair }, async (signal, publish) => {
      const layers = [...unknown];
      let number = 0;
      for await (const weights of source.pair(subject, filter, pair, signal)) {
        layers[number++] = weights;
        publish(layers);
      }
      return layers;
    });
    const layers = resource.isCurrent ? resource.value : undefined;
    return rankingOf("pair", layers ?? unknown, resource, "pair");
  }
}

/**
 * Return the tokens that the viewer hides.
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
 * Return the hidden tokens in the form of a request.
 * @param {State} state
 * @param {Data} data
 * @param {boolean} isCross
 * @returns {Filter}
 */
function filterOf({ renormalise }, { hidden, hiddenKeys }, isCross) {
  return { hide: hidden, ...(isCross && { hide_keys: hiddenKeys }), renormalise };
}

/**
 * Return the name of the picture that is read; "" while it is uploaded.
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
  const usable = models.filter(({ reason }) => !reason);
  const versions = usable.filter((model) => model.name === name);
  return versions.at(-1) ?? usable[0] ?? null; // the last version is the newest
}

/**
 * Return the chosen token, or else "bank", or else the first token that is not special.
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
 * the tokens that attend to them.
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
