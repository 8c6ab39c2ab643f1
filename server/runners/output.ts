// What people are told of a sandbox's output when it could not do its work.
import { open } from "node:fs/promises";

/** Read from the end of a log, of which the most is shown, in bytes and lines. */
const readBytes = 8_000;
const mostLines = 20;
/** Characters of a reason with the output that goes with it. */
const mostText = 2_000;

/** Stands for a directory of the host that nobody is shown; a path, so that what is below it goes with it. */
const hidden = "/-";

/**
 * The last lines a sandbox printed; empty where there is no log yet. The log is untrusted and may be of any size.
 * @param hostPlaces paths of this installation, of which nothing is shown wherever they are and whatever is in their names.
 */
export async function lastOutput(path: string, hostPlaces: readonly string[]): Promise<string> {
  try {
    await using file = await open(path);
    const { size } = await file.stat();
    const length = Math.min(size, readBytes);
    const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(length), position: size - length });
    const lines = buffer.toString("utf8", 0, bytesRead).split("\n");
    // Half of a line may be half of a secret, which nobody would recognise.
    if (length < size) lines.shift();
    const shown = lines.slice(-mostLines).join("\n").trim();
    return longestFirst(hostPlaces).reduce((text, place) => text.replaceAll(place, hidden), shown);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

/** One may be inside another. */
function longestFirst(places: readonly string[]): string[] {
  return places.toSorted((one, other) => other.length - one.length);
}

/** What went wrong, with the output of the sandbox as far as there is room: its end says most. */
export function withOutput(what: string, output: string): string {
  const [said, shown] = [withoutInternals(what), withoutInternals(output)];
  const room = mostText - said.length - 1;
  return (shown && room > 0 ? `${said}\n${shown.slice(-room)}` : said).slice(0, mostText);
}

/** Tokens of this installation and keys of the provider, and the three parts of a person's token. */
const secrets = /\b(?:sk-ant-|cat_|clt_)[\w-]+|\beyJ[\w-]+\.[\w-]+\.[\w-]+/g;
/** What every sandbox has at the same place, and says nothing of the host. */
const common = ["/workspace", "/home/agent", "/run/carrel/(?:channel|spool)", "/opt/carrel", "/usr", "/bin", "/lib", "/etc", "/dev/null"];
/** Not within a relative path, nor the slashes of an address; `file://` goes with the path that follows it. */
const begin = "(?:file://[^\\s/]*|(?<![\\w./])(?<!:(?=//)))";
const hostPaths = new RegExp(`${begin}(?!(?:${common.join("|")})(?![\\w-]))/[^\\s'"()<>,;]+`, "g");

/** Without secrets, and without paths of the host: what starts a sandbox prints there too. */
export function withoutInternals(text: string): string {
  return text.replace(secrets, "[secret]").replace(hostPaths, "[path]");
}
