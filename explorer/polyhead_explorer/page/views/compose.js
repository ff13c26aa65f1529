/** The fields of the text and the model. */

import { button, h, setAttribute } from "../dom.js";
import { SENTENCES } from "../state.js";
import { textSubject } from "../subject.js";
import { decoderField } from "./decoder_field.js";
import { pictureField } from "./picture_field.js";
import { secondTextField } from "./second_text_field.js";

const TYPING_MS = 300;
const MAX_CHIP = 80;

/** @typedef {import("../source.js").Model} Model */

/** @type {import("../app.js").View} */
export const compose = {
  id: "compose",
  title: "Text and model",
  subjects(state, { model, isPicture }) {
    if (!model?.has_decoder || isPicture) return [];
    const attentions = /** @type {const} */ (["encoder", "decoder", "cross"]);
    return attentions.map((attention) => textSubject(model, { ...state, attention }));
  },
  mount(root, app) {
    let timer = 0;
    const send = () => {
      clearTimeout(timer);
      if (text.value !== app.state.text) app.set({ text: text.value });
    };
    const text = h("textarea", {
      id: "text",
      rows: 2,
      spellcheck: "false",
      readonly: Boolean(app.file),
      oninput: () => {
        clearTimeout(timer);
        timer = setTimeout(send, TYPING_MS);
      },
      onblur: send,
    });
    const model = h("select", {
      id: "model",
      onchange: () => app.set({ model: model.value, layer: 0, head: 0, image: "" }),
    });
    const sentences = textsToTry(app).map((sentence) => ({
      sentence,
      element: button(shortened(sentence), () => app.set({ text: sentence }), { class: "chip" }),
    }));
    const note = h("p", { class: "muted note" });
    const label = h("label", { for: "text" }, "Text");
    const second = secondTextField(app);
    const textField = h(
      "div",
      { class: "field grow" },
      h("div", { class: "field-head" }, label, second.add),
      text,
      h(
        "div",
        { class: "chips", role: "group", "aria-label": "Sentences to try" },
        ...sentences.map(({ element }) => element),
      ),
    );
    const picture = pictureField(app);
    const decoder = decoderField(app);
    root.append(
      textField,
      second.element,
      decoder.element,
      picture.element,
      h("div", { class: "field" }, h("label", { for: "model" }, "Model"), model, note),
    );

    let listed = "";
    return (state, data) => {
      if (document.activeElement !== text) text.value = state.text;
      for (const { sentence, element } of sentences) {
        setAttribute(element, "aria-pressed", String(sentence === state.text));
      }
      const models = data.models.value ?? [];
      const key = JSON.stringify(models);
      if (key !== listed) model.replaceChildren(...models.map(option));
      listed = key;
      model.value = data.model?.name ?? "";
      note.textContent = noteOf(models, data);
      textField.hidden = data.isPicture;
      label.textContent = data.model?.has_decoder ? "Text of the encoder" : "Text";
      second.update(state, data);
      decoder.update(state, data);
      picture.update(state, data);
    };
  },
};

/** @param {Model} model */
function option({ name, title, reason }) {
  const label = reason ? `${name}: ${reason}` : `${name}: ${title}`;
  return h("option", { value: name, disabled: Boolean(reason) }, label);
}

/**
 * @param {Model[]} models
 * @param {import("../app.js").Data} data
 */
function noteOf(models, { model, reading }) {
  if (!model) return models.length ? "No model of the server takes text or pictures." : "";
  const loaded = reading?.isCurrent ? reading.value : null;
  if (loaded?.is_cut && model.has_decoder) {
    return "A text is longer than the model reads: the rest of it is left out.";
  }
  if (loaded?.is_cut) {
    const texts = loaded.subject.text_pair === undefined ? "text" : "texts";
    return `The model reads ${loaded.tokens.length} tokens: the rest of the ${texts} is left out.`;
  }
  return loaded?.is_causal && !model.has_decoder
    ? "A token sees itself and the ones before it."
    : "";
}

/** @param {string} text */
function shortened(text) {
  return text.length > MAX_CHIP ? `${text.slice(0, MAX_CHIP)}…` : text;
}

/**
 * Return the texts of a saved file, or else the two sentences.
 * @param {import("../app.js").App} app
 */
function textsToTry({ file }) {
  if (!file) return SENTENCES;
  return file.texts.length > 1 ? file.texts : [];
}
