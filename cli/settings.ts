import { chmod, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { CliFailure } from "./failures.ts";
import type { Surroundings } from "./surroundings.ts";

/** What `login` remembers. */
export type Settings = { url: string; token: string };

/** `$XDG_CONFIG_HOME/carrel/config.json`, or under `~/.config`. */
export function settingsFile({ env, homeDirectory }: Surroundings): string {
  const base = env["XDG_CONFIG_HOME"];
  return path.join(base && path.isAbsolute(base) ? base : path.join(homeDirectory, ".config"), "carrel", "config.json");
}

/** Undefined when nobody has signed in. */
export async function readSettings(surroundings: Surroundings): Promise<Settings | undefined> {
  const file = settingsFile(surroundings);
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new CliFailure(`cannot read ${file}: ${(error as Error).message}`);
  }
  const settings = parse(text);
  if (!settings) throw new CliFailure(`${file} is not what carrel login wrote`, ["write it anew: carrel login"]);
  return settings;
}

/** Readable by its owner only, and never half written. */
export async function writeSettings(surroundings: Surroundings, settings: Settings): Promise<string> {
  const file = settingsFile(surroundings);
  const draft = `${file}.${process.pid}.new`;
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
  await writeFile(draft, `${JSON.stringify(settings, null, 2)}\n`, { mode: 0o600 });
  await chmod(draft, 0o600);
  await rename(draft, file);
  return file;
}

/** False when there was nothing to forget. */
export async function forgetSettings(surroundings: Surroundings): Promise<boolean> {
  const known = (await readFile(settingsFile(surroundings), "utf8").catch(() => undefined)) !== undefined;
  await rm(settingsFile(surroundings), { force: true });
  return known;
}

function parse(text: string): Settings | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null) return undefined;
    const { url, token } = value as Record<string, unknown>;
    return typeof url === "string" && typeof token === "string" ? { url, token } : undefined;
  } catch {
    return undefined;
  }
}
