/** The menu that saves the shown picture, its numbers, or the page itself. */

import { button, h } from "../dom.js";
import { SourceError } from "../errors.js";
import { matrixOf } from "../head.js";
import { writeState } from "../state.js";
import { isDecoders, SECOND_MARK, textsOf } from "../subject.js";
import { chosenView } from "../views/detail.js";
import { toCsv, toNpz } from "./numbers.js";
import { makeOfflineFile, subjectKey } from "./offline_file.js";
import { pictureOf, toPng, toSvg } from "./picture.js";

const MENU = "save-menu";
const REVOKE_MS = 10_000;
const NOTHING = "This view has none, or it is not loaded yet.";

/**
 * @typedef {import("../app.js").App} App
 * @typedef {import("../app.js").Reading} Reading
 */

/**
 * Make the button and its menu.
 * @param {App} app
 */
export function saveMenu(app) {
  const note = h("p", { class: "muted", role: "status" });
  const progress = h("progress", { max: 1, "aria-label": "Share of the file that is done" });
  const stop = button("Stop", () => abort.abort());
  let abort = new AbortController();
  const items = [
    item("Picture, PNG", "png", () => savePicture(toPng)),
    item("Picture, SVG", "svg", () => savePicture(toSvg)),
    item("Numbers, CSV", "csv", () => saveNumbers(toCsv)),
    item("Numbers, NumPy (NPZ)", "npz", () => saveNumbers(toNpz)),
    ...(app.file ? [] : [item("Page that works offline, HTML", "html", () => savePage())]),
  ];
  const menu = h(
    "div",
    { class: "menu card", id: MENU, popover: "auto", role: "group", "aria-label": "Save" },
    ...items,
    h("div", { class: "menu-work" }, progress, stop),
    note,
  );
  const work = /** @type {HTMLElement} */ (progress.parentElement);
  work.hidden = true;
  menu.addEventListener("toggle", () => {
    if (!menu.matches(":popover-open")) return;
    note.textContent = "";
    items[0]?.focus();
  });
  menu.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const place = items.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    if (!step || place < 0) return;
    event.preventDefault();
    items[(place + step + items.length) % items.length]?.focus();
  });
  return [h("button", { type: "button", popovertarget: MENU }, "Save"), menu];

  /**
   * @param {string} label
   * @param {string} ending
   * @param {() => Blob | Promise<Blob | null> | null} make
   */
  function item(label, ending, make) {
    return button(label, async () => {
      abort.abort();
      abort = new AbortController();
      const { signal } = abort;
      note.textContent = "";
      try {
        const blob = await make();
        if (signal.aborted) return;
        if (blob) download(blob, `${nameOf(app)}.${ending}`);
        note.textContent = blob ? `Saved, ${sizeOf(blob)}.` : NOTHING;
      } catch (error) {
        if (signal.aborted) note.textContent = "Stopped.";
        else if (error instanceof SourceError) note.textContent = error.message;
        else throw error;
      } finally {
        if (abort.signal === signal) work.hidden = true;
      }
    });
  }

  /** @param {(picture: import("./picture.js").Picture) => Blob | Promise<Blob | null>} write */
  function savePicture(write) {
    const root = document.getElementById("detail");
    const picture =
      root && app.data?.head?.value && pictureOf(root, captionOf(app), app.theme.palette());
    return picture ? write(picture) : null;
  }

  /** @param {(numbers: import("./numbers.js").Numbers[]) => Blob} write */
  function saveNumbers(write) {
    const numbers = numbersOf(app);
    return numbers.length ? write(numbers) : null;
  }

  async function savePage() {
    const { data, state } = app;
    if (!data?.model || !data.reading?.isCurrent) return null;
    work.hidden = false;
    progress.value = 0;
    return makeOfflineFile(
      {
        hash: writeState({ ...state, image: data.reading.value?.subject.image ?? "" }) || "#",
        model: data.model,
        readings: await readingsOf(app, abort.signal),
        layer: data.place.layer,
        filter: data.filter,
        questions: app.views.flatMap(({ questions }) => questions?.(state, data) ?? []),
      },
      { signal: abort.signal, onProgress: (done) => (progress.value = done) },
    );
  }
}

/**
 * Return the readings of the shown text, and of other texts that the views need.
 * @param {App} app
 * @param {AbortSignal} signal
 */
async function readingsOf({ data, state, source, views }, signal) {
  const own = /** @type {Reading} */ (data?.reading?.value);
  const readings = new Map([[own.subject, /** @type {import("../subject.js").Reading} */ (own)]]);
  const keys = new Set([subjectKey(own.subject)]);
  for (const subject of data ? views.flatMap((view) => view.subjects?.(state, data) ?? []) : []) {
    if (keys.has(subjectKey(subject))) continue;
    keys.add(subjectKey(subject));
    const reading = await source.reading(subject, signal).catch(unlessRefused);
    if (reading) readings.set(subject, reading);
  }
  return readings;
}

/** @param {unknown} error the model may refuse a text, which is then left out */
function unlessRefused(error) {
  if (!(error instanceof SourceError) || error.kind !== "invalid") throw error;
}

/** @param {App} app */
function numbersOf(app) {
  const { state, data } = app;
  if (!data?.head?.value) return [];
  const view = chosenView(state, data);
  if (view.numbers) return view.numbers(app, data);
  const { rows, columns, weights } = matrixOf(data.head.value);
  return [{ name: "weights", rows: rows.labels, columns: columns.labels, data: weights }];
}

/** @param {App} app */
function captionOf(app) {
  const { data, state } = app;
  const { layer = 0, head = 0 } = data?.place ?? {};
  const name = data?.reading?.value?.layers[layer]?.name ?? layer;
  const without = hasHidden(data)
    ? state.renormalise
      ? ", without hidden tokens, rescaled"
      : ", without hidden tokens"
    : "";
  return `${data?.model?.name ?? ""}, layer ${name}, head ${head}${without}: ${textOf(app)}`;
}

/** @param {import("../app.js").Data | null} data */
function hasHidden(data) {
  return Boolean(data?.hidden.length || data?.hiddenKeys.length);
}

/** @param {App} app */
function textOf({ data, state, pictures }) {
  const reading = data?.reading?.value;
  if (!data || !reading) return state.text;
  const { picture: grid, subject, tokens } = reading;
  const texts = textsOf(subject).join(` | second text ${SECOND_MARK}: `);
  if (isDecoders(subject)) return `${subject.decoder_text} | ${texts}`;
  if (!grid) return texts;
  const token = tokens[data.token]?.spelling ?? "";
  return `${token} of ${pictures.name || "a picture"}`;
}

/** @param {App} app */
function nameOf({ data, state }) {
  const { layer = 0, head = 0 } = data?.place ?? {};
  const view = data ? chosenView(state, data).id : "";
  return `${data?.model?.name ?? "polyhead"}-layer${layer}-head${head}-${view}`;
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
function download(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), REVOKE_MS);
}

/** @param {Blob} blob */
function sizeOf({ size }) {
  return size < 1e6 ? `${Math.ceil(size / 1e3)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}
