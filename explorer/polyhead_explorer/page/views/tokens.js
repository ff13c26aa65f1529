/** The tokens of the text: the one that is chosen is looked at in all views. */

import { button, setAttribute } from "../dom.js";

/** @type {import("../app.js").View} */
export const tokens = {
  id: "tokens",
  title: "Tokens",
  mount(root, app) {
    /** @type {import("../app.js").Reading | null} */
    let shown = null;
    /** @type {HTMLButtonElement[]} */
    let buttons = [];
    root.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const place = buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
      const next = step && place >= 0 ? buttons[place + step] : undefined;
      if (!next) return;
      event.preventDefault();
      next.focus();
      next.click();
    });
    return (_, data) => {
      const reading = data.reading?.value ?? null;
      root.classList.toggle("stale", !data.reading?.isCurrent);
      if (reading && reading !== shown) {
        buttons = reading.tokens.map((token, index) =>
          button(token.text, () => app.set({ token: index }), {
            class: `token ${token.is_special ? "special" : ""} ${joins(reading, index) ? "joins" : ""}`,
            title: `token ${index}: ${token.spelling}`,
          }),
        );
        root.replaceChildren(...buttons);
        shown = reading;
      }
      const hidden = new Set(data.hidden);
      buttons.forEach((element, index) => {
        setAttribute(element, "aria-pressed", String(index === data.token));
        setAttribute(element, "tabindex", index === Math.max(data.token, 0) ? 0 : -1);
        element.classList.toggle("hidden-token", hidden.has(index));
      });
    };
  },
};

/**
 * Whether a token continues the word of the one before it.
 * @param {import("../app.js").Reading} reading
 * @param {number} index
 */
function joins({ tokens: all, subject }, index) {
  const [token, before] = [all[index], all[index - 1]];
  if (!token || !before || token.is_special || before.is_special) return false;
  const isWord = /^[\p{L}\p{N}]+$/u;
  const text = [...subject.text].slice(before.start, token.end).join("").trim();
  return isWord.test(text);
}
