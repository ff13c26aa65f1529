/** The description of a saved file: when and from what it was made, and what it lacks. */

import { h } from "../dom.js";

/** @type {import("../app.js").View} */
export const origin = {
  id: "origin",
  title: "This file",
  mount(root, app) {
    root.hidden = !app.file;
    if (app.file) {
      const { made, missing } = app.file;
      root.append(
        h(
          "p",
          { class: "muted" },
          `${made} It works offline. Weights have three digits. ${missing}`,
        ),
      );
    }
    return () => {};
  },
};
