/** `npm run generate` writes README's table of settings from server/config.ts; `npm run check` compares the two. */
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { type Setting, settings } from "../server/config.ts";
import { root } from "./buf.ts";
import type { Outcome } from "./check-tool.ts";

const readmeFile = path.join(root, "README.md");
const begin = "<!-- settings: written by npm run generate -->\n";
const end = "<!-- end of settings -->\n";

/** The table as Markdown. */
export function settingsTable(): string {
  const rows = Object.values<Setting<unknown>>(settings).map(
    (entry) => `| \`${entry.name}\` | ${entry.default && `\`${entry.default}\``} | ${escapeCell(entry.describe)} |`,
  );
  return ["| Variable | Default | Meaning |", "|---|---|---|", ...rows, ""].join("\n");
}

/** A bar would end the cell, inside code too. */
function escapeCell(text: string): string {
  return text.replaceAll("|", "\\|");
}

/** README with the table as server/config.ts has it. */
function withTable(readme: string): string {
  const from = readme.indexOf(begin);
  const to = readme.indexOf(end);
  if (from < 0 || to < from) throw new Error("README.md has lost the two comments around its table of settings");
  return `${readme.slice(0, from + begin.length)}\n${settingsTable()}\n${readme.slice(to)}`;
}

export async function checkReadme(): Promise<Outcome> {
  const readme = readFileSync(readmeFile, "utf8");
  if (withTable(readme) === readme) return { result: "passed", text: "" };
  return { result: "failed", text: "differs from server/config.ts; run npm run generate" };
}

if (import.meta.main) writeFileSync(readmeFile, withTable(readFileSync(readmeFile, "utf8")));
