/** What the packages' own install scripts would have done and Carrel needs; run by install.mjs after `npm ci --ignore-scripts`. */
import { locatePostgresBinaries } from "../server/db/embedded-binaries.ts";

// Now, while node_modules is surely writable; later it may not be.
locatePostgresBinaries();
