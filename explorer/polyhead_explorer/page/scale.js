/** Maps weights to shares of a colour scale, and shares to colours. */

/** @typedef {import("./state.js").Scale} Scale */

const SMALLEST = 1e-4;

/** @type {Record<Scale, (weight: number) => number>} */
const SHARES = {
  linear: (weight) => weight,
  power: (weight) => Math.sqrt(weight),
  log: (weight) => (weight <= SMALLEST ? 0 : 1 - Math.log(weight) / Math.log(SMALLEST)),
};

/** @type {Record<Scale, string>} */
export const SCALE_TITLES = {
  linear: "Linear",
  power: "Power ½",
  log: "Log, from 0.0001",
};

/** The weights at the ticks of a legend. */
export const TICKS = [0, 0.001, 0.01, 0.1, 0.25, 0.5, 1];

/**
 * Return the function from a weight in [0, 1] to its share of the colours, in [0, 1].
 * @param {Scale} scale
 */
export function shareOf(scale) {
  const share = SHARES[scale];
  return (/** @type {number} */ weight) => Math.min(Math.max(share(weight), 0), 1);
}

/** Colours of weights from 0 to 1, at equal distances. */
const RAMPS = {
  dark: ["#141a24", "#12384f", "#0f6f84", "#2fb5a4", "#b4e39a", "#fff6c9"],
  light: ["#f7f5ef", "#cfe6df", "#7cc4bf", "#2c8fa3", "#1d5485", "#1b1748"],
};
const NUM_COLOURS = 256;
/** The luminance on which black and white text have the same contrast. */
const EVEN_LUMINANCE = 0.179;

/** @type {Map<string, Uint32Array>} */
const cachedRamps = new Map();

/**
 * Return the colours of weights from 0 to 1, as pixels of an ImageData.
 * @param {"dark" | "light"} theme
 */
export function colours(theme) {
  let pixels = cachedRamps.get(theme);
  if (!pixels) cachedRamps.set(theme, (pixels = makeColours(RAMPS[theme])));
  return pixels;
}

/** Colours of differences from -1 (more in the first text) to 1 (more in the second). */
const DIFFERENCES = {
  dark: ["#ffa3d1", "#a8477b", "#141a24", "#3f66b5", "#a6c8ff"],
  light: ["#7a1650", "#cf7aa8", "#f7f5ef", "#7fa0dd", "#173e8c"],
};

/**
 * Return the colours of differences from -1 to 1, as pixels of an ImageData.
 * @param {"dark" | "light"} theme
 */
export function differenceColours(theme) {
  const key = `difference ${theme}`;
  let pixels = cachedRamps.get(key);
  if (!pixels) cachedRamps.set(key, (pixels = makeColours(DIFFERENCES[theme])));
  return pixels;
}

/** @param {string[]} ramp */
function makeColours(ramp) {
  const stops = ramp.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: NUM_COLOURS }, (_, index) => {
    const place = (index / (NUM_COLOURS - 1)) * (stops.length - 1);
    const lower = Math.min(Math.floor(place), stops.length - 2);
    const [from, to] = [stops[lower] ?? [], stops[lower + 1] ?? []];
    const [red = 0, green = 0, blue = 0] = from.map((value, channel) =>
      Math.round(value + ((to[channel] ?? 0) - value) * (place - lower)),
    );
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
}

/**
 * Paint a matrix, one pixel for each weight.
 * @param {HTMLCanvasElement} canvas
 * @param {ArrayLike<number>} weights (rows, columns)
 * @param {number} numColumns
 * @param {Scale} scale
 * @param {"dark" | "light"} theme
 */
export function paintMatrix(canvas, weights, numColumns, scale, theme) {
  paint(canvas, weights, numColumns, colours(theme), shareOf(scale));
}

/**
 * Paint a matrix in any colours.
 * @param {HTMLCanvasElement} canvas
 * @param {ArrayLike<number>} numbers (rows, columns)
 * @param {number} numColumns
 * @param {Uint32Array} ramp
 * @param {(number: number) => number} share of the colours, in [0, 1]
 */
export function paint(canvas, numbers, numColumns, ramp, share) {
  canvas.width = numColumns;
  canvas.height = numColumns && numbers.length / numColumns;
  const context = canvas.getContext("2d");
  if (!context || !numbers.length) return;
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let index = 0; index < pixels.length; index++) {
    pixels[index] = ramp[Math.round(share(numbers[index] ?? 0) * (ramp.length - 1))] ?? 0;
  }
  context.putImageData(image, 0, 0);
}

/**
 * Return a weight's colour for CSS and for canvases.
 * @param {number} share in [0, 1]
 * @param {"dark" | "light"} theme
 */
export function colourOf(share, theme) {
  const pixel = colours(theme)[Math.round(share * (NUM_COLOURS - 1))] ?? 0;
  return `rgb(${pixel & 255} ${(pixel >> 8) & 255} ${(pixel >> 16) & 255})`;
}

/**
 * Return the colour of text on a weight's colour: black or white.
 * @param {number} share in [0, 1]
 * @param {"dark" | "light"} theme
 */
export function textOn(share, theme) {
  const pixel = colours(theme)[Math.round(share * (NUM_COLOURS - 1))] ?? 0;
  const [red = 0, green = 0, blue = 0] = [0, 8, 16].map((shift) => {
    const value = ((pixel >> shift) & 255) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; // by WCAG
  });
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return luminance > EVEN_LUMINANCE ? "#000000" : "#ffffff";
}

/**
 * Return a weight as text for people.
 * @param {number} weight
 */
export function format(weight) {
  if (weight === 0) return "0";
  return weight < 0.001 ? weight.toExponential(0) : weight.toFixed(weight < 0.01 ? 3 : 2);
}
