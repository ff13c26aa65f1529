/** The field of the decoder's text, and the choice of an encoder-decoder's attention. */

import { button, h, setAttribute } from "../dom.js";
import { decoderTextOf } from "../subject.js";

const TYPING_MS = 300;
const ATTENTIONS = /** @type {const} */ ([
  ["encoder", "Encoder"],
  ["decoder", "Decoder"],
  ["cross", "Decoder to encoder"],
]);

/**
 * Make the field.
 * @param {import("../app.js").App} app
 */
export function decoderField(app) {
  let timer = 0;
  const send = () => {
    clearTimeout(timer);
    if (text.value !== app.state.decoderText) app.set({ decoderText: text.value });
  };
  const text = h("textarea", {
    id: "decoder-text",
    rows: 1,
    spellcheck: "false",
    readonly: Boolean(app.file),
    oninput: () => {
      clearTimeout(timer);
      timer = setTimeout(send, TYPING_MS);
    },
    onblur: send,
  });
  const choices = ATTENTIONS.map(([attention, title]) => ({
    attention,
    element: button(title, () => app.set({ attention })),
  }));
  const note = h("p", { class: "muted" });
  const element = h(
    "div",
    { class: "field grow" },
    h("label", { for: "decoder-text" }, "Text of the decoder"),
    text,
    h(
      "div",
      { class: "attention" },
      h("span", { class: "muted", id: "attention-of" }, "Attention of"),
      h(
        "span",
        { class: "tabs", role: "group", "aria-labelledby": "attention-of" },
        ...choices.map((choice) => choice.element),
      ),
    ),
    note,
  );
  return {
    element,
    /**
     * @param {import("../state.js").State} state
     * @param {import("../app.js").Data} data
     */
    update(state, { model }) {
      element.hidden = !model?.has_decoder;
      if (document.activeElement !== text) text.value = state.decoderText;
      text.placeholder = decoderTextOf(state);
      for (const choice of choices) {
        setAttribute(choice.element, "aria-pressed", String(choice.attention === state.attention));
        choice.element.disabled = app.file?.attentions.includes(choice.attention) === false;
      }
      note.textContent = MEANINGS[state.attention];
    },
  };
}

const SHIFTED =
  "A row shows what the decoder looks at after it has read a token, before it writes the next one.";

/** @type {Record<import("../subject.js").Attention, string>} */
const MEANINGS = {
  encoder: "The encoder's tokens look at each other. They do not see the decoder's tokens.",
  decoder: `The decoder's tokens look at the tokens before them and at themselves. ${SHIFTED}`,
  cross: `The decoder's tokens look at the encoder's tokens. ${SHIFTED}`,
};
