/** Draws paths and their labels. */

const FONT = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";

/**
 * @typedef {{ x: number, y: number }} Point
 * @typedef {{ left: number, top: number, right: number, bottom: number }} Area
 */

/**
 * Draw the line on which both cosines are equal.
 * @param {CanvasRenderingContext2D} context
 * @param {(point: Point) => Point} toScreen
 * @param {string} colour
 */
export function drawDiagonal(context, toScreen, colour) {
  const [from, to] = [toScreen({ x: -1, y: -1 }), toScreen({ x: 1, y: 1 })];
  context.save();
  context.setLineDash([5, 5]);
  context.strokeStyle = colour;
  context.lineWidth = 2;
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(to.x, to.y);
  context.stroke();
  context.restore();
}

/**
 * Draw a path: in full colour up to a step, faintly after it.
 * @param {CanvasRenderingContext2D} context
 * @param {Point[]} points
 * @param {number} step
 * @param {string} colour
 * @param {number} unit
 */
export function drawPath(context, points, step, colour, unit) {
  context.lineWidth = 2.5 * unit;
  context.lineJoin = "round";
  context.strokeStyle = context.fillStyle = colour;
  points.forEach((point, when) => {
    const before = points[when - 1];
    context.globalAlpha = when <= step ? 1 : 0.25;
    if (before) {
      context.beginPath();
      context.moveTo(before.x, before.y);
      context.lineTo(point.x, point.y);
      context.stroke();
    }
    context.beginPath();
    context.arc(point.x, point.y, (when === step ? 6 : 3.5) * unit, 0, 2 * Math.PI);
    context.fill();
  });
  context.globalAlpha = 1;
}

/**
 * Write a label to the right of a point, if there is space. A bold label may also go above or below.
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {Point} point
 * @param {{ size: number, colour: string, isBold: boolean, taken: Area[] }} options
 */
export function drawLabel(context, text, { x, y }, { size, colour, isBold, taken }) {
  context.font = `${isBold ? "600 " : ""}${size}px ${FONT}`;
  const left = x + (isBold ? 10 : 7);
  const right = left + context.measureText(text).width;
  for (const shift of isBold ? [0, 1.3, -1.3] : [0]) {
    const middle = y + shift * size;
    const area = { left, top: middle - size * 0.6, right, bottom: middle + size * 0.6 };
    if (taken.some((other) => overlap(area, other))) continue;
    taken.push(area);
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillStyle = colour;
    context.fillText(text, left, middle);
    return;
  }
}

/**
 * @param {Area} a
 * @param {Area} b
 */
function overlap(a, b) {
  return a.left < b.right && a.right > b.left && a.top < b.bottom && a.bottom > b.top;
}
