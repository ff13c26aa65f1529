/** What the page asks, by the names of the explorer's endpoints (api/). */

import { SourceError } from "./errors.js";
import { readingFrom } from "./subject.js";
import { fromBase64, toBase64 } from "./pictures.js";
import { frames } from "./transport.js";

/**
 * @typedef {object} Model
 * @property {string} name
 * @property {number} version
 * @property {string} title
 * @property {string} reason why it cannot be shown; "": it can
 * @property {number} num_layers
 * @property {number} num_heads
 * @property {boolean} takes_text
 * @property {boolean} has_decoder whether its decoder can be shown, with a text of its own
 * @property {PictureForm | null} picture how it wants pictures; null: it takes none
 */

/**
 * @typedef {object} PictureForm
 * @property {number} height
 * @property {number} width
 * @property {number} crop share of the shorter side that is cut out of the middle; 0: nothing is
 * @property {number[]} mean
 * @property {number[]} std
 * @property {string} family whose defaults these are; "": they are guessed
 */

/**
 * @typedef {import("./subject.js").Reading} Reading
 * @typedef {import("./subject.js").Subject} Subject
 */

/**
 * @typedef {object} Shown which tokens are left out
 * @property {number[]} hide
 * @property {number[]} [hide_keys] of keys that are other tokens; without it, `hide` says that
 * @property {boolean} renormalise
 */

/**
 * @typedef {object} LayerMaps all heads of a layer, small
 * @property {number} layer
 * @property {number} numHeads
 * @property {number} numRows of a map
 * @property {number} numColumns
 * @property {Float32Array} maps (heads, rows, columns)
 * @property {Float32Array} received (heads, keys): mean weight that each key gets
 * @property {Float32Array} measures (measures, heads): what each head does (measures.js)
 */

/**
 * @typedef {object} Groups tokens along one side of a matrix
 * @property {number[]} kept indices of the tokens that are shown
 * @property {number[]} starts where in `kept` each group of tokens begins that share a row
 */

/**
 * @typedef {object} Head one head's weights
 * @property {number} layer
 * @property {number} head
 * @property {Groups} rows
 * @property {Groups} keys
 * @property {Float32Array} weights (groups of rows, groups of keys)
 */

/**
 * @typedef {object} Row one row of one head, as the server computes it
 * @property {Spec} spec
 * @property {Float32Array} scores (keys): query times key, scaled, and soft-capped if the model
 *   does that
 * @property {Float32Array} masked (keys): with biases and masks, the input of softmax
 * @property {Float32Array} weights (keys)
 */

/**
 * @typedef {object} Spec the mathematics of a layer's attention
 * @property {number} head_dim
 * @property {number} scale factor on the scores
 * @property {number} softcap 0: there is none
 * @property {boolean} is_causal
 * @property {number} sliding_window 0: there is none
 * @property {boolean} has_alibi
 * @property {number} relative_buckets 0: there is no relative position bias
 * @property {boolean} has_sinks
 */

/** @typedef {import("./frames.js").Tensor} Tensor */

/**
 * @typedef {object} Vectors what enters a layer, and one row of a head in vectors
 * @property {Record<string, number>} sizes how many numbers each vector has; the first 64 are here
 * @property {string[]} dimensions what each number that enters means; empty where nobody knows
 * @property {string} reason why the head's vectors cannot be had; "": they are here
 * @property {Record<string, Tensor>} arrays by name (reading/vectors.py)
 */

/**
 * @typedef {object} Path where tokens are in a plane; a step is before a layer, the last is after
 *   the last layer
 * @property {number[]} tokens which tokens there are
 * @property {number[]} nearest for each step the token that is nearest; -1: there is none
 * @property {number[]} shares of the variance along each axis; empty for anchors
 * @property {Tensor} points (steps, tokens, 2)
 * @property {Tensor} otherPath (steps, 2): the token that is followed in the other text; no step
 *   without one
 * @property {Float32Array} turned (steps): 1 - cosine between a state and the one before
 */

/**
 * @typedef {object} PathOptions
 * @property {number} query
 * @property {boolean} of_path whether principal components are those of the token's own states
 * @property {string | null} anchor_x
 * @property {string | null} anchor_y
 * @property {string | null} other
 * @property {number | null} other_query
 */

export class Source {
  /**
   * @param {AbortSignal} signal
   * @returns {Promise<Model[]>}
   */
  async models(signal) {
    const { header } = await first(frames("models", null, signal));
    return header.models;
  }

  /**
   * Make tokens of a text. No layer runs.
   * @param {Subject} subject
   * @param {AbortSignal} signal
   * @returns {Promise<Reading>}
   */
  async reading(subject, signal) {
    const { header } = await first(frames("reading", subject, signal));
    return readingFrom(header);
  }

  /**
   * Give a picture a name.
   * @param {import("./pictures.js").Pixels} pixels
   * @param {AbortSignal} signal
   * @returns {Promise<string>}
   */
  async upload({ height, width, pixels }, signal) {
    const body = { height, width, pixels: toBase64(pixels) };
    const { header } = await first(frames("upload", body, signal));
    return header.image;
  }

  /**
   * Return a picture by its name.
   * @param {string} image
   * @param {AbortSignal} signal
   * @returns {Promise<import("./pictures.js").Pixels>}
   */
  async picture(image, signal) {
    const { header } = await first(frames("picture", { image }, signal));
    return { height: header.height, width: header.width, pixels: fromBase64(header.pixels) };
  }

  /**
   * Yield the heads of one layer after the other, as each has run.
   * @param {Subject} subject
   * @param {Shown} shown
   * @param {number} size most rows and columns of a map
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<LayerMaps, void, void>}
   */
  async *maps(subject, shown, size, signal) {
    for await (const { header, arrays } of frames("maps", { ...subject, ...shown, size }, signal)) {
      const { maps, received, measures } = arrays;
      if (!maps || !received || !measures) continue;
      const [numHeads = 0, numRows = 0, numColumns = 0] = maps.shape;
      yield {
        layer: header.layer,
        numHeads,
        numRows,
        numColumns,
        maps: maps.data,
        received: received.data,
        measures: measures.data,
      };
    }
  }

  /**
   * Yield the weight from a token to another in all heads of one layer after the other.
   * @param {Subject} subject
   * @param {Shown} shown
   * @param {{ query: number, key: number }} pair
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<Float32Array, void, void>}
   */
  async *pair(subject, shown, pair, signal) {
    for await (const { arrays } of frames("pair", { ...subject, ...shown, ...pair }, signal)) {
      if (arrays.weights) yield arrays.weights.data;
    }
  }

  /**
   * @param {Subject} subject
   * @param {{ layer: number, head: number }} place
   * @param {Shown} shown
   * @param {AbortSignal} signal
   * @returns {Promise<Head>}
   */
  async head(subject, place, shown, signal) {
    const { header, arrays } = await first(
      frames("head", { ...subject, ...place, ...shown }, signal),
    );
    const { layer, head, rows, keys } = header;
    return { layer, head, rows, keys, weights: arrays.weights?.data ?? new Float32Array() };
  }

  /**
   * @param {Subject} subject
   * @param {{ layer: number, head: number }} place
   * @param {number} query
   * @param {AbortSignal} signal
   * @returns {Promise<Row>}
   */
  async row(subject, place, query, signal) {
    const { header, arrays } = await first(frames("row", { ...subject, ...place, query }, signal));
    const stage = (/** @type {string} */ name) => arrays[name]?.data ?? new Float32Array();
    return {
      spec: header.spec,
      scores: stage("scores"),
      masked: stage("masked"),
      weights: stage("weights"),
    };
  }

  /**
   * Yield the number of steps that are known, and at last the path.
   * @param {Subject} subject
   * @param {PathOptions} options
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<number | Path, void, void>}
   */
  async *path(subject, options, signal) {
    const none = { shape: [0, 2], data: new Float32Array() };
    for await (const { header, arrays } of frames("path", { ...subject, ...options }, signal)) {
      const { points, other_path, turned } = arrays;
      if (points && turned) {
        const { tokens, nearest, shares } = header;
        const otherPath = other_path ?? none;
        yield { tokens, nearest, shares, points, otherPath, turned: turned.data };
      } else {
        yield header.step + 1;
      }
    }
  }

  /**
   * @param {Subject} subject
   * @param {{ layer: number, head: number }} place
   * @param {number} query
   * @param {AbortSignal} signal
   * @returns {Promise<Vectors>}
   */
  async vectors(subject, place, query, signal) {
    const { header, arrays } = await first(
      frames("vectors", { ...subject, ...place, query }, signal),
    );
    const { sizes, dimensions, reason } = header;
    return { sizes, dimensions, reason, arrays };
  }
}

/**
 * @template T
 * @param {AsyncGenerator<T, void, void>} items
 * @returns {Promise<T>}
 */
async function first(items) {
  /** @type {T | undefined} */
  let found;
  for await (const item of items) found ??= item; // to its end, because leaving early aborts it
  if (found !== undefined) return found;
  throw new SourceError("explorer", "The explorer's answer was empty.");
}
