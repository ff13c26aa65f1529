/** The parts of the page. The id of each is the id of the element that it fills. */

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
