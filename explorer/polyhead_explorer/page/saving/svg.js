/**
 * Records drawing as SVG. It has the part of CanvasRenderingContext2D that the views use: paths,
 * rectangles, texts, images, clips and linear gradients.
 */

const NAMESPACE = "http://www.w3.org/2000/svg";
const BASELINES = /** @type {Record<string, string>} */ ({
  middle: "central",
  top: "text-before-edge",
  bottom: "text-after-edge",
});
const ANCHORS = /** @type {Record<string, string>} */ ({
  right: "end",
  end: "end",
  center: "middle",
});

class Gradient {
  element;

  /** @param {SVGElement} element */
  constructor(element) {
    this.element = element;
  }

  /**
   * @param {number} offset
   * @param {string} colour
   */
  addColorStop(offset, colour) {
    this.element.append(svg("stop", { offset, "stop-color": colour }));
  }
}

export class SvgContext {
  #root;
  #definitions = svg("defs", {});
  /** @type {string[]} commands of the current path */
  #path = [];
  #matrix = new DOMMatrix();
  /** @type {string[]} ids of the clips in effect */
  #clips = [];
  /** @type {Record<string, any>[]} */
  #stack = [];
  #ruler = document.createElement("canvas").getContext("2d");
  #numIds = 0;

  /** @type {string | Gradient} */
  fillStyle = "#000";
  /** @type {string | Gradient} */
  strokeStyle = "#000";
  lineWidth = 1;
  lineCap = "butt";
  lineJoin = "miter";
  globalAlpha = 1;
  font = "10px sans-serif";
  textAlign = "start";
  textBaseline = "alphabetic";
  imageSmoothingEnabled = true;
  /** @type {number[]} */
  #dash = [];

  /**
   * @param {number} width
   * @param {number} height
   */
  constructor(width, height) {
    this.#root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    this.#root.append(this.#definitions);
  }

  /** Return the text of the SVG file. */
  toString() {
    return new XMLSerializer().serializeToString(this.#root);
  }

  save() {
    const matrix = DOMMatrix.fromMatrix(this.#matrix);
    this.#stack.push({ values: { ...this }, matrix, clips: this.#clips, dash: this.#dash });
  }

  restore() {
    const saved = this.#stack.pop();
    if (!saved) return;
    Object.assign(this, saved.values);
    this.#matrix = saved.matrix;
    this.#clips = saved.clips;
    this.#dash = saved.dash;
  }

  /** @param {number} x @param {number} y */
  translate(x, y) {
    this.#matrix = this.#matrix.translate(x, y);
  }

  /** @param {number} radians */
  rotate(radians) {
    this.#matrix = this.#matrix.rotate((radians * 180) / Math.PI);
  }

  /** @param {number} x @param {number} [y] */
  scale(x, y = x) {
    this.#matrix = this.#matrix.scale(x, y);
  }

  beginPath() {
    this.#path = [];
  }

  closePath() {
    this.#path.push("Z");
  }

  /** @param {...number} point */
  moveTo(...point) {
    this.#add("M", point);
  }

  /** @param {...number} point */
  lineTo(...point) {
    this.#add("L", point);
  }

  /** @param {...number} points */
  bezierCurveTo(...points) {
    this.#add("C", points);
  }

  /** @param {...number} points */
  quadraticCurveTo(...points) {
    this.#add("Q", points);
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} width
   * @param {number} height
   */
  rect(x, y, width, height) {
    this.#path.push(
      `M${[x, y].map(short).join(" ")}h${short(width)}v${short(height)}h${short(-width)}Z`,
    );
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} radius
   * @param {number} from
   * @param {number} to
   */
  arc(x, y, radius, from, to) {
    const isWhole = Math.abs(to - from) >= 2 * Math.PI;
    const end = isWhole ? from + Math.PI : to;
    const place = (/** @type {number} */ angle) =>
      [x + radius * Math.cos(angle), y + radius * Math.sin(angle)].map(short).join(" ");
    const arcTo = (/** @type {number} */ angle, /** @type {number} */ isLarge) =>
      `A${short(radius)} ${short(radius)} 0 ${isLarge} 1 ${place(angle)}`;
    this.#path.push(
      `${this.#path.length ? "L" : "M"}${place(from)}`,
      arcTo(end, end - from > Math.PI ? 1 : 0),
    );
    if (isWhole) this.#path.push(arcTo(from, 0));
  }

  /** @param {number[]} dash */
  setLineDash(dash) {
    this.#dash = dash;
  }

  clip() {
    const id = this.#newId();
    const clip = svg("clipPath", { id });
    clip.append(svg("path", { d: this.#path.join(""), transform: this.#transform() }));
    this.#definitions.append(clip);
    this.#clips = [...this.#clips, id];
  }

  stroke() {
    this.#put(svg("path", { d: this.#path.join(""), fill: "none", ...this.#strokeAttributes() }));
  }

  fill() {
    this.#put(svg("path", { d: this.#path.join(""), fill: this.#paint(this.fillStyle) }));
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} width
   * @param {number} height
   */
  strokeRect(x, y, width, height) {
    const box = { x: short(x), y: short(y), width: short(width), height: short(height) };
    this.#put(svg("rect", { ...box, fill: "none", ...this.#strokeAttributes() }));
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} width
   * @param {number} height
   */
  fillRect(x, y, width, height) {
    const box = { x: short(x), y: short(y), width: short(width), height: short(height) };
    this.#put(svg("rect", { ...box, fill: this.#paint(this.fillStyle) }));
  }

  /** It does nothing, because a new drawing is empty. */
  clearRect() {}

  /** @param {string} text */
  measureText(text) {
    const ruler = /** @type {CanvasRenderingContext2D} */ (this.#ruler);
    ruler.font = this.font;
    return ruler.measureText(text);
  }

  /**
   * @param {string} text
   * @param {number} x
   * @param {number} y
   * @param {number} [maxWidth]
   */
  fillText(text, x, y, maxWidth = Infinity) {
    const [, weight = "400", size = "10", family = "sans-serif"] =
      /^(?:(\w+) )?([\d.]+)px (.*)$/.exec(this.font) ?? [];
    const attributes = {
      x: short(x),
      y: short(y),
      fill: this.#paint(this.fillStyle),
      "font-family": family,
      "font-size": short(Number(size)),
      "font-weight": weight,
      "text-anchor": ANCHORS[this.textAlign] ?? "start",
      "dominant-baseline": BASELINES[this.textBaseline] ?? "alphabetic",
      "xml:space": "preserve",
      ...(this.measureText(text).width > maxWidth && {
        textLength: short(maxWidth),
        lengthAdjust: "spacingAndGlyphs",
      }),
    };
    const element = svg("text", attributes);
    element.textContent = text;
    this.#put(element);
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} x
   * @param {number} y
   * @param {number} width
   * @param {number} height
   */
  drawImage(canvas, x, y, width, height) {
    this.#put(
      svg("image", {
        x: short(x),
        y: short(y),
        width: short(width),
        height: short(height),
        href: canvas.toDataURL(),
        preserveAspectRatio: "none",
        ...(!this.imageSmoothingEnabled && { "image-rendering": "pixelated" }),
      }),
    );
  }

  /**
   * @param {number} x0
   * @param {number} y0
   * @param {number} x1
   * @param {number} y1
   */
  createLinearGradient(x0, y0, x1, y1) {
    const ends = { x1: short(x0), y1: short(y0), x2: short(x1), y2: short(y1) };
    const element = svg("linearGradient", {
      id: this.#newId(),
      gradientUnits: "userSpaceOnUse",
      ...ends,
    });
    this.#definitions.append(element);
    return new Gradient(element);
  }

  /** @param {string} command @param {number[]} numbers */
  #add(command, numbers) {
    this.#path.push(command + numbers.map(short).join(" "));
  }

  #newId() {
    return `d${++this.#numIds}`;
  }

  #strokeAttributes() {
    return {
      stroke: this.#paint(this.strokeStyle),
      "stroke-width": short(this.lineWidth),
      "stroke-linecap": this.lineCap,
      "stroke-linejoin": this.lineJoin,
      ...(this.#dash.length && { "stroke-dasharray": this.#dash.map(short).join(" ") }),
    };
  }

  /** @param {string | Gradient} style */
  #paint(style) {
    return style instanceof Gradient ? `url(#${style.element.id})` : style;
  }

  #transform() {
    const { a, b, c, d, e, f, isIdentity } = this.#matrix;
    return isIdentity ? "" : `matrix(${[a, b, c, d, e, f].map(short).join(" ")})`;
  }

  /** @param {SVGElement} element */
  #put(element) {
    const transform = this.#transform();
    if (transform) element.setAttribute("transform", transform);
    if (this.globalAlpha < 1) element.setAttribute("opacity", String(short(this.globalAlpha)));
    let outer = element;
    for (const id of this.#clips.toReversed()) {
      const group = svg("g", { "clip-path": `url(#${id})` });
      group.append(outer);
      outer = group;
    }
    this.#root.append(outer);
  }
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes an attribute that is "" is left out
 */
function svg(name, attributes) {
  const element = /** @type {SVGElement} */ (document.createElementNS(NAMESPACE, name));
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value !== "") element.setAttribute(attribute, String(value));
  }
  return element;
}

/** @param {number} number in hundredths of a pixel */
function short(number) {
  return Math.round(number * 100) / 100;
}
