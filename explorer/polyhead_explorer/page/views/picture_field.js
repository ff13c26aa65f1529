/** The field of the picture: the viewer's file, or the built-in one. */

import { button, checkbox, h, setAttribute } from "../dom.js";
import { SourceError } from "../errors.js";

/**
 * Make the field.
 * @param {import("../app.js").App} app
 */
export function pictureField(app) {
  const choice = checkbox("Read a picture, not the text", (picture) =>
    app.set({ picture, layer: 0, head: 0, token: -1 }),
  );
  const file = h("input", {
    type: "file",
    accept: "image/*",
    class: "visually-hidden",
    tabindex: "-1",
    "aria-label": "Picture",
    onchange: () => void choose(file.files?.[0]),
  });
  const sample = button(
    "Built-in picture",
    () => {
      app.pictures.reset();
      app.set({ image: "", token: -1 });
    },
    { class: "chip" },
  );
  const name = h("span", { class: "muted" });
  const note = h("p", { class: "muted" });
  const problem = h("p", { class: "trouble", role: "alert" });
  const controls = h(
    "div",
    { class: "drop" },
    button("Choose a picture", () => file.click()),
    sample,
    file,
    name,
  );
  const element = h("div", { class: "field grow" }, choice.element, controls, note, problem);
  for (const type of ["dragenter", "dragover"]) {
    element.addEventListener(type, (event) => {
      event.preventDefault();
      controls.classList.add("dropping");
    });
  }
  element.addEventListener("dragleave", () => controls.classList.remove("dropping"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    controls.classList.remove("dropping");
    void choose(event.dataTransfer?.files[0]);
  });

  /** @param {File} [chosen] */
  async function choose(chosen) {
    file.value = "";
    problem.textContent = "";
    if (!chosen) return;
    try {
      await app.pictures.choose(chosen);
      app.set({ image: "", token: -1 });
    } catch (error) {
      if (!(error instanceof SourceError)) throw error;
      problem.textContent = error.message;
    }
  }

  return {
    element,
    /**
     * @param {import("../state.js").State} state
     * @param {import("../app.js").Data} data
     */
    update(state, data) {
      const { model, isPicture } = data;
      element.hidden = !model?.picture || (Boolean(app.file) && !isPicture);
      choice.element.hidden = !model?.takes_text || Boolean(app.file);
      choice.input.checked = state.picture;
      controls.hidden = !isPicture || Boolean(app.file);
      note.hidden = problem.hidden = !isPicture;
      const isLinked = Boolean(state.image) && !app.pictures.name;
      name.textContent = isLinked
        ? "The picture of the link."
        : app.pictures.name || "Or drop a file here.";
      setAttribute(sample, "aria-pressed", String(!isLinked && !app.pictures.name));
      note.textContent = noteOf(model?.picture ?? null);
    },
  };
}

/**
 * Return a note on how the picture is changed for the model.
 * @param {import("../source.js").PictureForm | null} form
 */
function noteOf(form) {
  if (!form) return "";
  const { height, width, crop, mean, std, family } = form;
  const numbers = (/** @type {number[]} */ all) => all.map((each) => +each.toFixed(3)).join(", ");
  const how = crop
    ? `${crop < 1 ? `The middle ${crop * 100} %` : "The middle"} is made`
    : "It is resized to";
  const origin = family
    ? `the published defaults of ${family} models`
    : "a guess for an unknown family";
  return (
    `${how} ${width} × ${height} pixels; mean ${numbers(mean)}, deviation ${numbers(std)}: ` +
    `${origin}, because the exported model does not state them.`
  );
}
