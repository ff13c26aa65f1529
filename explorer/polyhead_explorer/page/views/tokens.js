/** The tokens of the text or picture. All views show the chosen one. */

import { button, h, setAttribute } from "../dom.js";
import { ownText } from "../subject.js";

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
        own.show(reading.tokens, ownText(subject), isCross ? "Decoder" : "");
        keys.show(isCross ? reading.keys : [], subject.text, "Encoder");
        current = reading;
      }
      own.mark(data.token, data.hidden);
      keys.mark(data.partner, data.hiddenKeys);
    };
  },
};

/** A line of the tokens of one text, with one chosen token. */
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
   * @param {string} text
   * @param {string} title the reader of the tokens; "" if there is one line only
   */
  show(all, text, title) {
    const characters = [...text];
    this.#buttons = all.map((token, index) =>
      button(token.text, () => this.#onChoose(index), {
        class: `token ${token.is_special ? "special" : ""} ${joins(all, index, characters) ? "joins" : ""}`,
        title: `token ${index}: ${token.spelling}`,
      }),
    );
    setAttribute(this.element, "role", title ? "group" : false);
    setAttribute(
      this.element,
      "aria-label",
      title ? `Tokens of the ${title.toLowerCase()}` : false,
    );
    this.element.hidden = !all.length;
    this.element.replaceChildren(
      ...(title ? [h("span", { class: "token-title", "aria-hidden": "true" }, title)] : []),
      ...this.#buttons,
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

/**
 * Whether a token continues the word of the previous token.
 * @param {Token[]} all
 * @param {number} index
 * @param {string[]} characters of the text
 */
function joins(all, index, characters) {
  const [token, before] = [all[index], all[index - 1]];
  if (!token || !before || token.is_special || before.is_special) return false;
  const isWord = /^[\p{L}\p{N}]+$/u;
  return isWord.test(characters.slice(before.start, token.end).join("").trim());
}
