/** The header's buttons: copy the link, save, and dark or light. */

import { button } from "../dom.js";
import { saveMenu } from "../saving/menu.js";

const COPIED_MS = 1500;

/** @type {import("../app.js").View} */
export const tools = {
  id: "tools",
  title: "Tools",
  mount(root, app) {
    const share = button("Copy link", async () => {
      const isCopied = await navigator.clipboard.writeText(location.href).then(
        () => true,
        () => false,
      );
      share.textContent = isCopied ? "Copied" : "The link is in the address bar";
      setTimeout(() => (share.textContent = "Copy link"), COPIED_MS);
    });
    const theme = button("", () => app.theme.toggle());
    root.append(...(app.file ? [] : [share]), ...saveMenu(app), theme);
    return () => {
      theme.textContent = app.theme.name === "dark" ? "Light" : "Dark";
    };
  },
};
