/** The theme, dark or light, by the system's or the viewer's choice; and colours for canvases. */

const KEY = "polyhead-theme";
const ROLES = /** @type {const} */ ({
  text: "--text",
  muted: "--muted",
  line: "--line",
  surface: "--surface",
  query: "--query",
  key: "--key",
});

/** @typedef {Record<keyof typeof ROLES, string>} Palette */

export class Theme {
  #system = matchMedia("(prefers-color-scheme: dark)");
  #probe = document.createElement("i");
  /** @type {Partial<Record<"dark" | "light", Palette>>} */
  #palettes = {};

  /** @param {() => void} onChange */
  constructor(onChange) {
    this.#probe.hidden = true;
    document.body.append(this.#probe);
    this.#show(readChoice());
    this.#system.addEventListener("change", onChange);
    this.onChange = onChange;
  }

  /** @returns {"dark" | "light"} */
  get name() {
    const chosen = document.documentElement.dataset.theme;
    if (chosen) return chosen === "dark" ? "dark" : "light";
    return this.#system.matches ? "dark" : "light";
  }

  toggle() {
    const name = this.name === "dark" ? "light" : "dark";
    saveChoice(name);
    this.#show(name);
    this.onChange();
  }

  /**
   * Return the style sheet's colours for canvases.
   * @returns {Palette}
   */
  palette() {
    const { name } = this;
    let palette = this.#palettes[name];
    if (!palette) {
      const colours = Object.entries(ROLES).map(([role, property]) => [role, this.read(property)]);
      palette = this.#palettes[name] = /** @type {Palette} */ (Object.fromEntries(colours));
    }
    return palette;
  }

  /**
   * Read another colour of the style sheet.
   * @param {string} property such as "--second"
   */
  read(property) {
    this.#probe.style.color = `var(${property})`;
    return getComputedStyle(this.#probe).color;
  }

  /** @param {string | null} name */
  #show(name) {
    if (name) document.documentElement.dataset.theme = name;
  }
}

// A page inside a frame, as in notebooks, has no storage.

function readChoice() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** @param {string} name */
function saveChoice(name) {
  try {
    localStorage.setItem(KEY, name);
  } catch {
    // the choice ends with the page
  }
}
