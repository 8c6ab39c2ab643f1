import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The checkout. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** The buf program itself: its npm package would only copy it in an install script, and install scripts are not run. */
export const buf = join(
  dirname(createRequire(import.meta.url).resolve(`@bufbuild/buf-${process.platform}-${process.arch}/package.json`)),
  "bin/buf",
);
