/** Reads the explorer's frames, each a JSON header and arrays (web/frames.py). */

/**
 * @typedef {{ shape: number[], data: Float32Array }} Tensor
 * @typedef {{ header: Record<string, any>, arrays: Record<string, Tensor> }} Frame
 */

const LENGTH_BYTES = 4;

/**
 * Yield frames as they arrive.
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {AsyncGenerator<Frame, void, void>}
 */
export async function* readFrames(stream) {
  const reader = stream.getReader();
  /** @type {Uint8Array[]} */
  let chunks = [];
  let available = 0;

  /**
   * Return the next bytes in a new buffer; null at the end of the stream.
   * @param {number} length
   */
  async function take(length) {
    while (available < length) {
      const { value, done } = await reader.read();
      if (done) return null;
      chunks.push(value);
      available += value.length;
    }
    const bytes = new Uint8Array(length);
    let filled = 0;
    while (filled < length) {
      const chunk = /** @type {Uint8Array} */ (chunks[0]);
      const part = chunk.subarray(0, length - filled);
      bytes.set(part, filled);
      filled += part.length;
      if (part.length < chunk.length) chunks[0] = chunk.subarray(part.length);
      else chunks = chunks.slice(1);
    }
    available -= length;
    return bytes;
  }

  try {
    for (;;) {
      const length = await take(LENGTH_BYTES);
      if (length === null) return;
      const text = await take(new DataView(length.buffer).getUint32(0, true));
      if (text === null) throw new TypeError("the response ended within a frame");
      const header = JSON.parse(new TextDecoder().decode(text));
      /** @type {Record<string, Tensor>} */
      const arrays = {};
      for (const [name, shape] of Object.entries(header.arrays ?? {})) {
        const size = shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1);
        const isHalf = header.halves?.includes(name);
        const itemSize = isHalf ? Uint16Array.BYTES_PER_ELEMENT : Float32Array.BYTES_PER_ELEMENT;
        const bytes = await take(size * itemSize);
        if (bytes === null) throw new TypeError("the response ended within a frame");
        const data = isHalf ? widen(new Uint16Array(bytes.buffer)) : new Float32Array(bytes.buffer);
        arrays[name] = { shape, data };
      }
      yield { header, arrays };
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** @type {Float32Array | null} */
let float32OfBits = null;

/**
 * Convert numbers of 16 bits (IEEE 754 binary16) to float32.
 * @param {Uint16Array} halves
 */
function widen(halves) {
  float32OfBits ??= Float32Array.from({ length: 1 << 16 }, (_, bits) => {
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const size =
      exponent === 31
        ? fraction
          ? NaN
          : Infinity
        : exponent
          ? 2 ** (exponent - 15) * (1 + fraction / 1024)
          : 2 ** -24 * fraction;
    return bits >> 15 ? -size : size;
  });
  const table = float32OfBits;
  return Float32Array.from(halves, (bits) => table[bits] ?? 0);
}
