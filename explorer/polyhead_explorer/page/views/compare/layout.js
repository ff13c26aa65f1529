/** The areas of the three maps: beside each other, or on narrow screens one above the other. */

const SPACE = 14;
const NARROW = 480;
const TITLE = 20;
export const TITLES = ["This text", "The other", "Difference"];

/**
 * @typedef {import("../../viewport.js").Box} Box
 * @typedef {{ x: number, y: number, width: number, height: number }} Area
 */

/** @param {Box} box */
export function isStacked(box) {
  return box.width < NARROW * box.unit;
}

/**
 * Return the areas of the three maps, without the names of rows and columns.
 * @param {Box} box
 * @param {number} gutter the space for the names
 * @returns {Area[]}
 */
export function areasOf(box, gutter) {
  if (isStacked(box)) {
    const title = TITLE * box.unit;
    const height = (box.height - gutter - 3 * title) / 3;
    return TITLES.map((_, index) => ({
      x: gutter,
      y: gutter + index * (height + title) + title,
      width: box.width - gutter,
      height,
    }));
  }
  const width = (box.width - gutter - 2 * SPACE) / 3;
  const top = gutter + 22 * box.unit;
  return TITLES.map((_, index) => ({
    x: gutter + index * (width + SPACE),
    y: top,
    width,
    height: box.height - top,
  }));
}
