import { mkdirSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { build, type Plugin } from "esbuild";
import { root } from "./buf.ts";

/** Bundles the runner into the one file that sandboxes are shown. */
export function buildRunner(): Promise<string> {
  return bundleForSandbox(join(root, "runner/main.ts"), join(root, "runner/dist/runner.cjs"));
}

/**
 * Bundles a program into one file, `outfile`. Takes about a tenth of a second; safe to do at once from two processes.
 * Small, because it is read at every start of a sandbox and kept in memory by every session.
 */
export async function bundleForSandbox(entry: string, outfile: string): Promise<string> {
  const aside = `${outfile}.${process.pid}`;
  mkdirSync(dirname(outfile), { recursive: true });
  await build({
    entryPoints: [entry],
    outfile: aside,
    bundle: true,
    platform: "node",
    // Asking for `node:http` in the newer manner loads all that it can export: a client for HTTP and WebSockets nobody here uses.
    format: "cjs",
    target: "node24",
    logLevel: "warning",
    // Names stay, for the stacks in a sandbox's log.
    minifyWhitespace: true,
    minifySyntax: true,
    define: { "import.meta.url": "__fileUrl" },
    banner: { js: "const __fileUrl = require('node:url').pathToFileURL(__filename).href;" },
    plugins: [withoutToolServers],
  });
  renameSync(aside, outfile);
  return outfile;
}

/** The agent SDK has these for tool servers inside its own process. Nothing here makes one, so nothing of them is bundled. */
const withoutToolServers: Plugin = {
  name: "without-tool-servers",
  setup({ onResolve, resolve }) {
    const resolving = {};
    onResolve(
      { filter: /^(zod|ajv|ajv-formats|@modelcontextprotocol\/sdk)(\/|$)/ },
      async ({ path, kind, importer, resolveDir, pluginData }) =>
        pluginData === resolving
          ? undefined
          : { ...(await resolve(path, { kind, importer, resolveDir, pluginData: resolving })), sideEffects: false },
    );
  },
};

if (import.meta.main) await buildRunner();
