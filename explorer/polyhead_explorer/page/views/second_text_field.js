/** The field of the second text, which becomes one sequence with the text. */

import { button, h } from "../dom.js";
import { SECOND_MARK } from "../subject.js";

const TYPING_MS = 300;

/**
 * Make the button that opens the field, and the field.
 * @param {import("../app.js").App} app
 */
export function secondTextField(app) {
  let timer = 0;
  /** Whether the viewer opened the field. It stays open while it is empty. */
  let isOpen = false;
  const send = () => {
    clearTimeout(timer);
    const value = text.value.trim() && text.value;
    if (value !== app.state.textPair) app.set({ textPair: value });
  };
  const text = h("textarea", {
    id: "text-pair",
    rows: 2,
    spellcheck: "false",
    readonly: Boolean(app.file),
    placeholder: "Such as the passage that answers a question",
    "aria-describedby": "text-pair-note",
    oninput: () => {
      isOpen = true;
      clearTimeout(timer);
      timer = setTimeout(send, TYPING_MS);
    },
    onblur: send,
  });
  const label = h("label", { for: "text-pair" });
  const add = button(
    "Add a second text",
    () => {
      isOpen = true;
      show(true);
      text.focus();
    },
    { class: "link" },
  );
  const remove = button(
    "Remove",
    () => {
      isOpen = false;
      text.value = "";
      send();
      show(false);
      add.focus();
    },
    { class: "link", "aria-label": "Remove the second text" },
  );
  remove.hidden = Boolean(app.file);
  const note = h(
    "p",
    { class: "muted", id: "text-pair-note" },
    `The model reads both as one sequence. ${SECOND_MARK}\u00a0marks the tokens of this one.`,
  );
  const element = h(
    "div",
    { class: "field grow" },
    h("div", { class: "field-head" }, label, remove),
    text,
    note,
  );

  /** @param {boolean} isShown */
  function show(isShown) {
    element.hidden = !isShown;
    add.hidden = isShown;
  }

  return {
    add,
    element,
    /**
     * @param {import("../state.js").State} state
     * @param {import("../app.js").Data} data
     */
    update({ textPair }, { model, isPicture }) {
      if (document.activeElement !== text) text.value = textPair;
      label.textContent = model?.has_decoder ? "Second text of the encoder" : "Second text";
      const isOffered = Boolean(model?.takes_pairs) && !isPicture;
      show(isOffered && (isOpen || Boolean(textPair)));
      add.hidden ||= !isOffered || Boolean(app.file);
    },
  };
}
