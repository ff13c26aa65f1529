/** A canvas that shows a part of its content. It handles scrolling, zoom, pointer and keys. */

import { button, h } from "./dom.js";

const MAX_ZOOM = 16;
const STEP = 1.3;
const ORDINARY_TEXT = 15;

/**
 * @typedef {object} Box the visible part of the content, in CSS pixels
 * @property {number} left
 * @property {number} top
 * @property {number} width
 * @property {number} height
 * @property {number} zoom 1 means the size at first
 * @property {number} unit size of text, relative to an ordinary screen
 */

/**
 * @typedef {object} Content
 * @property {string} label text for screen readers
 * @property {(box: Box) => { width: number, height: number }} size of the content at a zoom, at
 *   least the size of the box
 * @property {(context: CanvasRenderingContext2D, box: Box) => void} draw
 * @property {(x: number, y: number, box: Box) => void} point is called with a place in the
 *   box, or with negative numbers when the pointer leaves it
 * @property {() => void} press
 * @property {(key: string) => boolean} key handles a key; returns whether it did
 */

/** @type {WeakMap<Element, Viewport>} */
const viewports = new WeakMap();

/**
 * Return the visible viewport in a part of the page.
 * @param {Element} root
 */
export function viewportIn(root) {
  const visible = [...root.querySelectorAll(".viewport-frame")].find((each) =>
    each.checkVisibility(),
  );
  return (visible && viewports.get(visible)) ?? null;
}

export class Viewport {
  #canvas = h("canvas", { "aria-hidden": "true" });
  #spacer = h("div", { class: "viewport-content" }, this.#canvas);
  /** The place for a text on the element under the pointer. */
  readout = h("p", { class: "readout", "aria-live": "polite" });
  #scroller;
  #content;
  #zoom = 1;
  #isDrawing = false;

  /** @param {Content} content */
  constructor(content) {
    this.#content = content;
    this.#scroller = h(
      "div",
      { class: "viewport", tabindex: "0", role: "application", "aria-label": content.label },
      this.#spacer,
    );
    this.element = h(
      "div",
      { class: "viewport-frame" },
      this.#scroller,
      h(
        "div",
        { class: "viewport-foot" },
        this.readout,
        h(
          "div",
          { class: "zoom", role: "group", "aria-label": "Zoom" },
          button("−", () => this.#zoomTo(this.#zoom / STEP), { "aria-label": "Zoom out" }),
          button("Reset", () => this.#zoomTo(1)),
          button("+", () => this.#zoomTo(this.#zoom * STEP), { "aria-label": "Zoom in" }),
        ),
      ),
    );
    viewports.set(this.element, this);
    this.#scroller.addEventListener("scroll", () => this.draw());
    this.#scroller.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.#scroller.addEventListener("pointermove", (event) => this.#point(event));
    this.#scroller.addEventListener("pointerleave", () => content.point(-1, -1, this.box));
    this.#scroller.addEventListener("click", (event) => {
      this.#point(event);
      content.press();
    });
    this.#scroller.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.resize()).observe(this.#scroller);
  }

  /** Adapt to a new size of the content, and draw it. */
  resize() {
    const { width, height } = this.#content.size(this.box);
    this.#spacer.style.width = `${width}px`;
    this.#spacer.style.height = `${height}px`;
    this.draw();
  }

  /** Draw at the next frame. */
  draw() {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    requestAnimationFrame(() => {
      this.#isDrawing = false;
      this.#draw();
    });
  }

  /**
   * Scroll so that a part of the content can be seen.
   * @param {{ left?: number, top?: number, right?: number, bottom?: number }} part
   */
  reveal({ left, top, right, bottom }) {
    const scroller = this.#scroller;
    if (top !== undefined && top < scroller.scrollTop) scroller.scrollTop = top;
    if (left !== undefined && left < scroller.scrollLeft) scroller.scrollLeft = left;
    const [width, height] = [scroller.clientWidth, scroller.clientHeight];
    if (bottom !== undefined && bottom > scroller.scrollTop + height) {
      scroller.scrollTop = bottom - height;
    }
    if (right !== undefined && right > scroller.scrollLeft + width) {
      scroller.scrollLeft = right - width;
    }
  }

  /** @returns {Box} */
  get box() {
    const { scrollLeft: left, scrollTop: top, clientWidth, clientHeight } = this.#scroller;
    const unit = parseFloat(getComputedStyle(this.#scroller).fontSize) / ORDINARY_TEXT;
    return { left, top, width: clientWidth, height: clientHeight, zoom: this.#zoom, unit };
  }

  /**
   * Draw the visible part on another canvas.
   * @param {CanvasRenderingContext2D} context
   */
  drawOn(context) {
    this.#content.draw(context, this.box);
  }

  #draw() {
    const box = this.box;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
      this.#canvas.style.width = `${box.width}px`;
      this.#canvas.style.height = `${box.height}px`;
    }
    const context = this.#canvas.getContext("2d");
    if (!context || !width || !height) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, box.width, box.height);
    this.#content.draw(context, box);
  }

  /**
   * Zoom, so that a place of the box does not move.
   * @param {number} zoom
   * @param {{ x: number, y: number }} [place]
   */
  #zoomTo(zoom, place) {
    const box = this.box;
    const { x, y } = place ?? { x: box.width / 2, y: box.height / 2 };
    const before = this.#content.size(box);
    const after = this.#content.size({ ...box, zoom });
    const isSmallest = zoom < this.#zoom && after.height === before.height;
    if (isSmallest || zoom > MAX_ZOOM) return;
    this.#zoom = zoom;
    this.resize();
    this.#scroller.scrollLeft = ((box.left + x) / before.width) * after.width - x;
    this.#scroller.scrollTop = ((box.top + y) / before.height) * after.height - y;
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (!event.ctrlKey) return; // a pinch on a touch pad also sets it
    event.preventDefault();
    const { left, top } = this.#scroller.getBoundingClientRect();
    const place = { x: event.clientX - left, y: event.clientY - top };
    this.#zoomTo(this.#zoom * Math.exp(-event.deltaY / 200), place);
  }

  /** @param {MouseEvent} event */
  #point(event) {
    const { left, top } = this.#scroller.getBoundingClientRect();
    this.#content.point(event.clientX - left, event.clientY - top, this.box);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "=") this.#zoomTo(this.#zoom * STEP);
    else if (event.key === "-") this.#zoomTo(this.#zoom / STEP);
    else if (event.key === "0") this.#zoomTo(1);
    else if (!this.#content.key(event.key)) return;
    event.preventDefault();
  }
}
