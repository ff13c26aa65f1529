/** The field of an anchor: a word, the cosine to which is an axis. */

import { h } from "../../dom.js";

const TYPING_MS = 400;

/** @typedef {import("../../state.js").State} State */

/**
 * @param {import("../../app.js").App} app
 * @param {"anchorX" | "anchorY"} name
 */
export function anchorField(app, name) {
  let timer = 0;
  const send = () => {
    clearTimeout(timer);
    const word = element.value.trim();
    if (word && word !== app.state[name]) app.set({ [name]: word });
  };
  const element = h("input", {
    type: "text",
    class: "anchor",
    size: 9,
    spellcheck: "false",
    "aria-label": name === "anchorX" ? "Word of the first axis" : "Word of the second axis",
    oninput: () => {
      clearTimeout(timer);
      timer = setTimeout(send, TYPING_MS);
    },
    onblur: send,
  });
  return {
    element,
    show(/** @type {State} */ state) {
      if (document.activeElement !== element) element.value = state[name];
    },
  };
}
