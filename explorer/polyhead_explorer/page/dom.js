/** Makes elements. Children are nodes or texts. Texts never become markup. */

/**
 * @typedef {Node | string | number | null | false} Child
 * @typedef {Record<string, string | number | boolean | EventListener>} Properties attributes by
 *   name. An attribute that is false is left out. A function listens to the event after "on".
 */

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else setAttribute(element, name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== false).map(toNode));
  return element;
}

/**
 * @param {Element} element
 * @param {string} name
 * @param {string | number | boolean} value false removes the attribute
 */
export function setAttribute(element, name, value) {
  if (value === false) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : String(value));
}

/**
 * Make a button.
 * @param {Child} label
 * @param {() => void} onPress
 * @param {Properties} [properties]
 */
export function button(label, onPress, properties = {}) {
  return h("button", { type: "button", ...properties, onclick: onPress }, label);
}

/**
 * @param {string} label
 * @param {(isOn: boolean) => void} onChange
 * @param {Properties} [properties]
 */
export function checkbox(label, onChange, properties = {}) {
  const input = h("input", { type: "checkbox", onchange: () => onChange(input.checked) });
  return { input, element: h("label", { class: "check", ...properties }, input, label) };
}

/** Letters of scripts that are written from right to left. */
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;

/**
 * Return a token for a text with other tokens. Its direction does not reverse their order.
 * @param {string} text
 */
export function isolated(text) {
  return RIGHT_TO_LEFT.test(text) ? `\u2068${text}\u2069` : text;
}

/** @param {Child} child */
function toNode(child) {
  return child instanceof Node ? child : String(child);
}
