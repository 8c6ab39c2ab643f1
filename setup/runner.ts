import { mkdirSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { build } from "esbuild";
import { root } from "./buf.ts";

/** Bundles the runner into the one file that sandboxes are shown. Takes about a tenth of a second; safe to do at once from two processes. */
export async function buildRunner(): Promise<string> {
  const target = join(root, "runner/dist/runner.mjs");
  const aside = `${target}.${process.pid}`;
  mkdirSync(dirname(target), { recursive: true });
  await build({
    entryPoints: [join(root, "runner/main.ts")],
    outfile: aside,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node24",
    logLevel: "warning",
    // Packages in the CommonJS manner find their `require` here.
    banner: { js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);" },
  });
  renameSync(aside, target);
  return target;
}
