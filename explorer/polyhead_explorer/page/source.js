/** The questions of the page: a method for each endpoint of the explorer (api/). */

import { SourceError } from "./errors.js";
import { readingFrom } from "./subject.js";
import { fromBase64, toBase64 } from "./pictures.js";
import { frames } from "./transport.js";

/**
 * @typedef {object} Model
 * @property {string} name
 * @property {number} version
 * @property {string} title
 * @property {string} reason why it cannot be shown; "" if it can
 * @property {number} num_layers
 * @property {number} num_heads
 * @property {boolean} takes_text
 * @property {boolean} has_decoder whether its decoder can be shown, which reads a text of its own
 * @property {boolean} takes_pairs whether a second text is offered
 * @property {PictureForm | null} picture the form of its pictures; null if it takes none
 */

/**
 * @typedef {object} PictureForm
 * @property {number} height
 * @property {number} width
 * @property {number} crop share of the shorter side in the square that is cut from the middle; 0
 *   means that the whole picture is resized
 * @property {number[]} mean
 * @property {number[]} std
 * @property {string} family the family with these defaults; "" if they are a guess
 */

/**
 * @typedef {import("./subject.js").Reading} Reading
 * @typedef {import("./subject.js").Subject} Subject
 */

/**
 * @typedef {object} Filter the hidden tokens, and how rows without them are scaled
 * @property {number[]} hide indices of the tokens; in self-attention also of the keys
 * @property {number[]} [hide_keys] indices of the keys, in cross-attention
 * @property {boolean} renormalise whether the shown weights of a row are scaled to sum to 1
 */

/**
 * @typedef {object} LayerMaps small maps of all heads of a layer
 * @property {number} layer
 * @property {number} numHeads
 * @property {number} numRows rows of a map
 * @property {number} numColumns columns of a map
 * @property {Float32Array} maps (heads, rows, columns)
 * @property {Float32Array} received (heads, keys): mean weight of each key
 * @property {Float32Array} measures (measures, heads): see measures.js
 */

/**
 * @typedef {object} Groups tokens along one side of a matrix
 * @property {number[]} kept indices of the tokens that are shown
 * @property {number[]} starts index in `kept` at which each group begins; a group has one row or column
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
 * @typedef {object} Row the stages of one row of one head, from the server
 * @property {Spec} spec
 * @property {Float32Array} scores (keys): query times key, scaled, and soft-capped in some models
 * @property {Float32Array} masked (keys): with biases and masks, the input of softmax
 * @property {Float32Array} weights (keys)
 */

/**
 * @typedef {object} Spec the mathematics of a layer's attention
 * @property {number} head_dim
 * @property {number} scale factor on the scores
 * @property {number} softcap 0 means none
 * @property {boolean} is_causal
 * @property {number} sliding_window 0 means none
 * @property {boolean} has_alibi
 * @property {number} relative_buckets 0 means no relative position bias
 * @property {boolean} has_sinks
 */

/** @typedef {import("./frames.js").Tensor} Tensor */

/**
 * @typedef {object} Vectors the input of a layer, and the vectors of one row of a head
 * @property {Record<string, number>} sizes number of each vector's numbers; only the first 64 are loaded
 * @property {string[]} dimensions meaning of each number of the input; empty if not known
 * @property {string} reason why the head's vectors are missing; "" if they are loaded
 * @property {Record<string, Tensor>} arrays by name (reading/vectors.py)
 */

/**
 * @typedef {object} Path the points of tokens in a plane; a step is before a layer, and the last step
 *   is after the last layer
 * @property {number[]} tokens the drawn tokens
 * @property {number[]} nearest for each step, the nearest token; -1 if there is no other
 * @property {number[]} shares share of the variance along each axis; empty for anchors
 * @property {Tensor} points (steps, tokens, 2)
 * @property {Tensor} otherPath (steps, 2): the followed token of the other text; no steps if there is no
 *   other text
 * @property {Float32Array} turned (steps): 1 - cosine between a state and the previous one
 */

/**
 * @typedef {object} PathOptions
 * @property {number} query
 * @property {boolean} of_path whether principal components are of the token's states alone
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
   * Split a text into tokens. No layer runs.
   * @param {Subject} subject
   * @param {AbortSignal} signal
   * @returns {Promise<Reading>}
   */
  async reading(subject, signal) {
    const { header } = await first(frames("reading", subject, signal));
    return readingFrom(header);
  }

  /**
   * Upload a picture. Returns its name.
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
   * Yield the maps of one layer after the other, as soon as each has run.
   * @param {Subject} subject
   * @param {Filter} filter
   * @param {number} size most rows and columns of a map
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<LayerMaps, void, void>}
   */
  async *maps(subject, filter, size, signal) {
    for await (const { header, arrays } of frames(
      "maps",
      { ...subject, ...filter, size },
      signal,
    )) {
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
   * @param {Filter} filter
   * @param {{ query: number, key: number }} pair
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<Float32Array, void, void>}
   */
  async *pair(subject, filter, pair, signal) {
    for await (const { arrays } of frames("pair", { ...subject, ...filter, ...pair }, signal)) {
      if (arrays.weights) yield arrays.weights.data;
    }
  }

  /**
   * @param {Subject} subject
   * @param {{ layer: number, head: number }} place
   * @param {Filter} filter
   * @param {AbortSignal} signal
   * @returns {Promise<Head>}
   */
  async head(subject, place, filter, signal) {
    const { header, arrays } = await first(
      frames("head", { ...subject, ...place, ...filter }, signal),
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
   * Yield the number of finished steps, and at last the path.
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
  let result;
  // the loop goes to the end, because leaving it early would abort the request
  for await (const item of items) result ??= item;
  if (result !== undefined) return result;
  throw new SourceError("explorer", "The explorer's answer was empty.");
}
