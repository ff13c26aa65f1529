/** What heads do, in one number each: the measures that heads are ranked by. */

/**
 * @typedef {import("./app.js").Data} Data
 * @typedef {import("./state.js").Measure} Measure
 */

/**
 * @typedef {object} Ranking how much each head does what the measure says, as far as it is known
 * @property {Measure} measure
 * @property {(ArrayLike<number> | undefined)[]} layers a number for each head of each layer
 * @property {number} numKnown how many layers are known
 * @property {boolean} isLoading
 * @property {boolean} isStopped
 * @property {string} resource what to stop
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
/** Why there are fewer measures between two texts. */
export const LEFT_OUT =
  "The token before, the next one and the same one mean nothing between two texts.";

/**
 * Return the measures that there are between the tokens of one text, or of two. Those before "pair"
 * are in the order in which the explorer's maps give them (reading/measures.py).
 * @param {boolean} isCross
 * @returns {Measure[]}
 */
export function measuresOf(isCross) {
  return isCross ? ["first", "pair"] : ["previous", "next", "first", "same", "pair"];
}

/**
 * Return the measure that was chosen, or the first one if there is no such measure.
 * @param {Measure} chosen
 * @param {boolean} isCross
 * @returns {Measure}
 */
export function chooseMeasure(chosen, isCross) {
  const all = measuresOf(isCross);
  return all.includes(chosen) ? chosen : (all[0] ?? "pair");
}

/**
 * Say what a measure's numbers are.
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
 * Return the numbers of a measure that maps come with.
 * @param {Measure} measure
 * @param {Data["maps"]} maps
 * @param {import("./app.js").Reading} reading
 * @param {string} name of the maps' resource
 * @returns {Ranking}
 */
export function rankingOfMaps(measure, maps, reading, name) {
  const found = (maps?.isCurrent && maps.value?.layers) || [];
  const index = measuresOf(reading.isCross).indexOf(measure);
  const layers = Array.from(reading.layers, (_, layer) => {
    const { measures, numHeads = 0 } = found[layer] ?? {};
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
 * Return the heads that are known, the one that does most first.
 * @param {Ranking} ranking
 */
export function sorted({ layers }) {
  return layers
    .flatMap((values, layer) => Array.from(values ?? [], (value, head) => ({ layer, head, value })))
    .sort((a, b) => b.value - a.value);
}

/**
 * Choose the key that a pair goes to: what the viewer chose, or else a word that says what kind of
 * bank is meant, or else the token before, in another text the first word.
 * @param {import("./app.js").Token[]} keys
 * @param {number} chosen
 * @param {number | null} from the token that looks; null: it is in another text
 */
export function choosePartner(keys, chosen, from) {
  if (chosen >= 0 && chosen < keys.length) return chosen;
  const telling = keys.findIndex(({ text }) => /^(river|money|deposit)$/i.test(text));
  if (telling >= 0 && telling !== from) return telling;
  const near = from === null ? keys.findIndex(({ is_special }) => !is_special) : from - 1;
  return Math.max(near, 0);
}
