/** The lines before the first token of a second text. */

/**
 * Draw a dashed line, which is visible on any colour.
 * @param {CanvasRenderingContext2D} context
 * @param {import("./theme.js").Palette} palette
 * @param {number} unit number of CSS pixels at the size 1
 * @param {[number, number]} from
 * @param {[number, number]} to
 */
export function drawBoundary(context, palette, unit, from, to) {
  context.save();
  context.lineCap = "butt";
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.strokeStyle = palette.surface;
  context.lineWidth = 3 * unit;
  context.stroke();
  context.strokeStyle = palette.text;
  context.lineWidth = 1.5 * unit;
  context.setLineDash([4 * unit, 3 * unit]);
  context.stroke();
  context.restore();
}
