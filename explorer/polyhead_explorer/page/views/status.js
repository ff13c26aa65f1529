/** What is wrong, in words; the page tries again by itself where that can help. */

import { button, h } from "../dom.js";

/** @type {Record<string, string>} */
const TITLES = {
  busy: "The server is busy.",
  down: "The server cannot be reached.",
  empty: "There is no text.",
  gone: "The explorer has ended.",
  invalid: "This cannot be read.",
  "too-large": "This is too large for the server.",
  "not-saved": "This file does not hold that.",
  credentials: "The server wants other credentials.",
  slow: "The server does not answer in time.",
};

/** @type {import("../app.js").View} */
export const status = {
  id: "status",
  title: "Status",
  mount(root, app) {
    let shown = "";
    return () => {
      const [error] = app.resources.errors();
      const key = error ? `${error.kind} ${error.isRepeated} ${error.message}` : "";
      if (key === shown) return;
      shown = key;
      root.replaceChildren();
      if (!error) return;
      const { isRepeated } = error;
      const canRepeat = !isRepeated && !app.file && error.kind !== "empty";
      root.append(
        h(
          "div",
          { class: `banner ${isRepeated ? "waits" : ""}` },
          h("strong", {}, TITLES[error.kind] ?? "Something went wrong."),
          h("span", {}, error.message),
          isRepeated && h("span", { class: "muted" }, "The page tries again by itself."),
          canRepeat && button("Try again", () => app.resources.repeatFailed()),
        ),
      );
    };
  },
};
