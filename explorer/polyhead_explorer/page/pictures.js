/** The picture that is read: the viewer's file, or a built-in one, in the size of a model. */

import { SourceError } from "./errors.js";

/**
 * @typedef {import("./source.js").PictureForm} PictureForm
 * @typedef {{ height: number, width: number, pixels: Uint8Array }} Pixels red, green and blue of
 *   each pixel
 */

const MAX_SIDE = 2048;

/** The chosen picture. */
export class Pictures {
  /** @type {ImageBitmap | null} */
  #chosen = null;
  /** Name of the viewer's file; "": the built-in picture. */
  name = "";
  /** A number that changes with the picture. */
  number = 0;

  /**
   * Choose the viewer's file. Raises SourceError.
   * @param {Blob & { name?: string }} file
   */
  async choose(file) {
    const options = { resizeQuality: /** @type {const} */ ("high") };
    const bitmap = await createImageBitmap(file, options).catch(() => null);
    if (!bitmap)
      throw new SourceError("invalid", "The browser cannot read this file as a picture.");
    this.#chosen = await shrunk(bitmap);
    this.name = file.name || "a picture";
    this.number++;
  }

  /** Choose the built-in picture. */
  reset() {
    this.#chosen = null;
    this.name = "";
    this.number++;
  }

  /**
   * Return the picture in the form that a model takes.
   * @param {PictureForm} form
   * @returns {Pixels}
   */
  inForm({ height, width, crop }) {
    const source = this.#chosen ?? drawSample();
    const canvas = canvasOf(width, height);
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.fillStyle = "#ffffff"; // behind transparent pixels
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    let [w, h] = [source.width, source.height];
    if (crop) {
      const scale = Math.min(source.width / width, source.height / height) * crop;
      [w, h] = [width * scale, height * scale];
    }
    const [x, y] = [(source.width - w) / 2, (source.height - h) / 2];
    context.drawImage(source, x, y, w, h, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const pixels = new Uint8Array(width * height * 3);
    for (let at = 0; at < width * height; at++) {
      pixels.set(data.subarray(at * 4, at * 4 + 3), at * 3);
    }
    return { height, width, pixels };
  }
}

/**
 * Paint pixels on a canvas of their size.
 * @param {Pixels} pixels
 */
export function toCanvas({ height, width, pixels }) {
  const canvas = canvasOf(width, height);
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    image.data.set(pixels.subarray(at * 3, at * 3 + 3), at * 4);
    image.data[at * 4 + 3] = 255;
  }
  canvas.getContext("2d")?.putImageData(image, 0, 0);
  return canvas;
}

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  const step = 1 << 15; // a function takes a limited number of arguments
  let text = "";
  for (let at = 0; at < bytes.length; at += step) {
    text += String.fromCharCode(...bytes.subarray(at, at + step));
  }
  return btoa(text);
}

/** @param {string} text */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** @param {ImageBitmap} bitmap */
async function shrunk(bitmap) {
  const scale = MAX_SIDE / Math.max(bitmap.width, bitmap.height);
  if (scale >= 1) return bitmap;
  const [resizeWidth, resizeHeight] = [bitmap.width, bitmap.height].map((side) =>
    Math.max(1, Math.round(side * scale)),
  );
  const options = { resizeQuality: /** @type {const} */ ("high") };
  return createImageBitmap(bitmap, {
    ...options,
    resizeWidth: resizeWidth ?? 1,
    resizeHeight: resizeHeight ?? 1,
  });
}

/**
 * @param {number} width
 * @param {number} height
 */
function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/** Draw a river bank at sunset: a few large things, which differ from patch to patch. */
function drawSample() {
  const size = 448;
  const canvas = canvasOf(size, size);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const sky = context.createLinearGradient(0, 0, 0, size * 0.6);
  sky.addColorStop(0, "#3f7fc4");
  sky.addColorStop(1, "#ffd9a0");
  fill(sky, () => context.rect(0, 0, size, size));
  fill("#fff3b0", () => context.arc(340, 110, 42, 0, 7));
  fill("#6d8fae", () => polygon([0, 250, 90, 150, 190, 240, 270, 170, 448, 260, 448, 300, 0, 300]));
  fill("#4e8f4a", () => polygon([0, 270, 448, 250, 448, 448, 0, 448]));
  fill("#2f78b7", () => {
    context.moveTo(250, 258);
    context.bezierCurveTo(300, 310, 190, 350, 330, 448);
    context.lineTo(120, 448);
    context.bezierCurveTo(110, 350, 240, 310, 236, 258);
  });
  fill("#7a4b2a", () => context.rect(66, 250, 18, 90));
  fill("#1f6b35", () => context.arc(75, 225, 48, 0, 7));
  fill("#c7503a", () => context.rect(345, 270, 70, 56));
  fill("#7d2b20", () => polygon([335, 272, 380, 232, 425, 272]));
  fill("#fbe6b8", () => context.rect(372, 292, 18, 34));
  fill("#5a3318", () => polygon([170, 380, 250, 380, 235, 400, 185, 400]));
  fill("#f4f1e8", () => polygon([208, 376, 208, 320, 244, 372]));
  return canvas;

  /**
   * @param {string | CanvasGradient} colour
   * @param {() => void} draw
   */
  function fill(colour, draw) {
    context.fillStyle = colour;
    context.beginPath();
    draw();
    context.fill();
  }

  /** @param {number[]} points */
  function polygon(points) {
    for (let at = 0; at < points.length; at += 2) {
      context.lineTo(points[at] ?? 0, points[at + 1] ?? 0);
    }
  }
}
