/** The first error, with a button to try again, if the page does not retry by itself. */

import { button, h } from "../dom.js";

/** @type {Record<string, string>} */
const TITLES = {
  busy: "The server is busy.",
  down: "The server cannot be reached.",
  empty: "There is no text.",
  gone: "The explorer has stopped.",
  invalid: "This cannot be read.",
  "too-large": "This is too large for the server.",
  "not-saved": "This file does not contain that.",
  credentials: "The server does not accept the credentials.",
  slow: "The server does not answer in time.",
};

/** @type {import("../app.js").View} */
export const status = {
  id: "status",
  title: "Status",
  mount(root, app) {
    let current = "";
    return () => {
      const [error] = app.resources.errors();
      const key = error ? `${error.kind} ${error.isRepeated} ${error.message}` : "";
      if (key === current) return;
      current = key;
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
