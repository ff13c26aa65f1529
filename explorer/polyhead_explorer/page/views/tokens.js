/** The tokens of the text or picture. All views show the chosen one. */

import { button, h, setAttribute } from "../dom.js";
import { ownTexts, partsOf, SECOND_MARK, textsOf } from "../subject.js";

/** @typedef {import("../app.js").Token} Token */

/** @type {import("../app.js").View} */
export const tokens = {
  id: "tokens",
  title: "Tokens",
  mount(root, app) {
    const own = new TokenLine("", (token) => app.set({ token }));
    const keys = new TokenLine("of-keys", (pairKey) => app.set({ pairKey }));
    root.append(own.element, keys.element);
    /** @type {import("../app.js").Reading | null} */
    let current = null;
    return (_, data) => {
      const reading = data.reading?.value ?? null;
      root.classList.toggle("stale", !data.reading?.isCurrent);
      if (reading && reading !== current) {
        const { subject, isCross } = reading;
        own.show(reading.tokens, ownTexts(subject), isCross ? "Decoder" : "");
        keys.show(isCross ? reading.keys : [], textsOf(subject), "Encoder");
        current = reading;
      }
      own.mark(data.token, data.hidden);
      keys.mark(data.partner, data.hiddenKeys);
    };
  },
};

/** A line of the tokens of one sequence, with one chosen token. A second text has its own part. */
class TokenLine {
  #onChoose;
  /** @type {HTMLButtonElement[]} */
  #buttons = [];

  /**
   * @param {string} kind a class of the style sheet
   * @param {(index: number) => void} onChoose
   */
  constructor(kind, onChoose) {
    this.#onChoose = onChoose;
    this.element = h("div", { class: `token-line ${kind}` });
    this.element.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const place = this.#buttons.indexOf(
        /** @type {HTMLButtonElement} */ (document.activeElement),
      );
      const next = step && place >= 0 ? this.#buttons[place + step] : undefined;
      if (!next) return;
      event.preventDefault();
      next.focus();
      next.click();
    });
  }

  /**
   * @param {Token[]} all
   * @param {string[]} texts the text, and its second text if it has one
   * @param {string} title the reader of the tokens; "" if there is one line only
   */
  show(all, texts, title) {
    const characters = texts.map((text) => [...text]);
    this.#buttons = all.map((token, index) =>
      button(token.text, () => this.#onChoose(index), {
        class: `token ${token.is_special ? "special" : ""} ${joins(all, index, characters) ? "joins" : ""}`,
        title: `token ${index}: ${token.spelling}`,
      }),
    );
    const parts = partsOf(all);
    this.element.hidden = !all.length;
    this.element.replaceChildren(
      ...parts.map(({ start, end, textIndex }) => {
        const first = title || (parts.length > 1 ? "Text" : "");
        return part(textIndex ? SECOND : first, this.#buttons.slice(start, end));
      }),
    );
  }

  /**
   * @param {number} chosen
   * @param {number[]} hidden
   */
  mark(chosen, hidden) {
    const isHidden = new Set(hidden);
    this.#buttons.forEach((element, index) => {
      setAttribute(element, "aria-pressed", String(index === chosen));
      setAttribute(element, "tabindex", index === Math.max(chosen, 0) ? 0 : -1);
      element.classList.toggle("hidden-token", isHidden.has(index));
    });
  }
}

const SECOND = "Second text";

/**
 * @param {string} title "" if it is the only part
 * @param {HTMLElement[]} buttons
 */
function part(title, buttons) {
  if (!title) return h("div", { class: "token-part" }, ...buttons);
  const mark = title === SECOND && ` ${SECOND_MARK}`;
  return h(
    "div",
    { class: "token-part", role: "group", "aria-label": `Tokens of the ${title.toLowerCase()}` },
    h("span", { class: "token-title", "aria-hidden": "true" }, title, mark),
    ...buttons,
  );
}

/**
 * Whether a token continues the word of the previous token.
 * @param {Token[]} all
 * @param {number} index
 * @param {string[][]} characters of each text
 */
function joins(all, index, characters) {
  const [token, before] = [all[index], all[index - 1]];
  if (!token || !before || token.is_special || before.is_special) return false;
  if (token.text_index !== before.text_index) return false;
  const isWord = /^[\p{L}\p{N}]+$/u;
  const text = characters[token.text_index] ?? [];
  return isWord.test(text.slice(before.start, token.end).join("").trim());
}
