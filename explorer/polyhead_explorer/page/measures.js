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
 * The measures, in the order of the menu. The first four are in the order in which the explorer's
 * maps give them (reading/measures.py).
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
const NAMES = /** @type {Measure[]} */ (Object.keys(MEASURES));

/**
 * Return the numbers of a measure that maps come with.
 * @param {Measure} measure
 * @param {Data["maps"]} maps
 * @param {number} numLayers
 * @param {string} name of the maps' resource
 * @returns {Ranking}
 */
export function rankingOfMaps(measure, maps, numLayers, name) {
  const found = (maps?.isCurrent && maps.value?.layers) || [];
  const index = NAMES.indexOf(measure);
  const layers = Array.from({ length: numLayers }, (_, layer) => {
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
 * Choose the token that a pair goes to: what the viewer chose, or else a word that says what kind
 * of bank is meant, or else the token before.
 * @param {import("./app.js").Token[]} tokens
 * @param {number} chosen
 * @param {number} from
 */
export function choosePartner(tokens, chosen, from) {
  if (chosen >= 0 && chosen < tokens.length) return chosen;
  const telling = tokens.findIndex(({ text }) => /^(river|money|deposit)$/i.test(text));
  return telling >= 0 && telling !== from ? telling : Math.max(from - 1, 0);
}
