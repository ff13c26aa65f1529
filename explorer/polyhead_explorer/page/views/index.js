/** The parts of the page, by the element that each fills; and the views of the panel on the right. */

import { compose } from "./compose.js";
import { detail } from "./detail.js";
import { options } from "./options.js";
import { origin } from "./origin.js";
import { overview } from "./overview.js";
import { ranking } from "./ranking.js";
import { status } from "./status.js";
import { tokens } from "./tokens.js";
import { tools } from "./tools.js";

/** @type {import("../app.js").View[]} */
export const PANELS = [tools, status, origin, compose, tokens, options, overview, detail, ranking];
