/** The measures by which heads are ranked: one number for each head. */

/**
 * @typedef {import("./app.js").Data} Data
 * @typedef {import("./state.js").Measure} Measure
 */

/**
 * @typedef {object} Ranking the numbers of a measure that are loaded so far
 * @property {Measure} measure
 * @property {(ArrayLike<number> | undefined)[]} layers a number for each head of each layer
 * @property {number} numKnown number of layers with numbers
 * @property {boolean} isLoading
 * @property {boolean} isStopped
 * @property {string} resource name of the resource that loads the numbers
 */

/**
 * The measures, in the order of the menu.
 * @type {Record<Measure, { title: string, meaning: string }>}
 */
export const MEASURES = {
  previous: {
    title: "the token before",
    meaning: "Mean weight from each token to the one before it.",
  },
  next: { title: "the next token", meaning: "Mean weight from each token to the one after it." },
  first: {
    title: "the first token",
    meaning: "Mean weight from each later token to the first one.",
  },
  same: { title: "themselves", meaning: "Mean weight from each token to itself." },
  pair: { title: "a chosen token", meaning: "Weight from the one token to the other." },
};
/** The reason why there are fewer measures between a decoder and its encoder. */
export const LEFT_OUT =
  "The token before, the next one and the same one have no meaning between decoder and encoder.";

/**
 * Return the measures of self-attention, or of cross-attention. Those before "pair" are in the order
 * of the measures in the explorer's maps (reading/measures.py).
 * @param {boolean} isCross
 * @returns {Measure[]}
 */
export function measuresOf(isCross) {
  return isCross ? ["first", "pair"] : ["previous", "next", "first", "same", "pair"];
}

/**
 * Return the chosen measure, or the first one if there is no such measure.
 * @param {Measure} chosen
 * @param {boolean} isCross
 * @returns {Measure}
 */
export function chooseMeasure(chosen, isCross) {
  const all = measuresOf(isCross);
  return all.includes(chosen) ? chosen : (all[0] ?? "pair");
}

/**
 * Return a sentence on the meaning of a measure's numbers.
 * @param {Measure} measure
 * @param {boolean} isCross
 */
export function meaningOf(measure, isCross) {
  if (!isCross) return MEASURES[measure].meaning;
  const meaning =
    measure === "first"
      ? "Mean weight from each token of the decoder to the first one of the encoder."
      : MEASURES[measure].meaning;
  return `${meaning} ${LEFT_OUT}`;
}

/**
 * Return the ranking by a measure whose numbers come with the maps.
 * @param {Measure} measure
 * @param {Data["maps"]} maps
 * @param {import("./app.js").Reading} reading
 * @param {string} name of the maps' resource
 * @returns {Ranking}
 */
export function rankingOfMaps(measure, maps, reading, name) {
  const loaded = (maps?.isCurrent && maps.value?.layers) || [];
  const index = measuresOf(reading.isCross).indexOf(measure);
  const layers = Array.from(reading.layers, (_, layer) => {
    const { measures, numHeads = 0 } = loaded[layer] ?? {};
    return measures?.subarray(index * numHeads, (index + 1) * numHeads);
  });
  return rankingOf(measure, layers, maps, name);
}

/**
 * @param {Measure} measure
 * @param {Ranking["layers"]} layers
 * @param {{ isLoading: boolean, isStopped: boolean } | null} resource
 * @param {string} name
 * @returns {Ranking}
 */
export function rankingOf(measure, layers, resource, name) {
  return {
    measure,
    layers,
    numKnown: layers.filter(Boolean).length,
    isLoading: Boolean(resource?.isLoading),
    isStopped: Boolean(resource?.isStopped),
    resource: name,
  };
}

/**
 * Return the heads with numbers, the largest number first.
 * @param {Ranking} ranking
 */
export function sorted({ layers }) {
  return layers
    .flatMap((values, layer) => Array.from(values ?? [], (value, head) => ({ layer, head, value })))
    .sort((a, b) => b.value - a.value);
}

/**
 * Return the key of a pair: the chosen one, or else a word that shows the meaning of "bank", or else
 * the token before the query; in cross-attention, the first word.
 * @param {import("./app.js").Token[]} keys
 * @param {number} chosen
 * @param {number | null} query the token that attends; null in cross-attention
 */
export function choosePartner(keys, chosen, query) {
  if (chosen >= 0 && chosen < keys.length) return chosen;
  const telling = keys.findIndex(({ text }) => /^(river|money|deposit)$/i.test(text));
  if (telling >= 0 && telling !== query) return telling;
  const near = query === null ? keys.findIndex(({ is_special }) => !is_special) : query - 1;
  return Math.max(near, 0);
}
