import { mkdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { imageOptions } from "./images.ts";

/**
 * A source by the name it gets on the stage; names beginning with `writable-` change hands to the sandbox's user. Where there
 * is an image, what it holds is shown instead of the source.
 */
type StagedSource = { name: string; source: string; image?: string | null };

// Every Linux has it, bubblewrap itself needs it, and nothing of the host's /tmp is to be seen in a sandbox.
const stageMountPoint = "/tmp";

/**
 * Lets a user reach sources below directories closed to it, loosening no permission: in a mount namespace of the sandbox's
 * own, each source is bound to an entry of a stage, and the stage to /tmp. Written as a mount table, because a table takes
 * one `mount` process, not one per source.
 */
export async function prepareStage(directory: string, sources: readonly StagedSource[]): Promise<void> {
  const stage = join(directory, "stage");
  // The one who made the directory above keeps others out; in the namespace the sandbox's user must get in.
  await mkdir(stage, { mode: 0o755 });
  const lines: string[] = [];
  for (const { name, source, image } of sources) {
    const entry = join(stage, name);
    if ((await stat(source)).isDirectory()) await mkdir(entry);
    else await writeFile(entry, "");
    lines.push(image ? tableLine(image, entry, `ext4 ${imageOptions}`) : tableLine(source, entry));
  }
  lines.push(tableLine(stage, stageMountPoint));
  await writeFile(join(directory, "fstab"), lines.join(""), { mode: 0o600 });
}

/** Where a source is found once the stage is mounted. */
export function stagedPath(name: string): string {
  return join(stageMountPoint, name);
}

function tableLine(source: string, target: string, how = "none rbind"): string {
  return `${escaped(source)} ${escaped(target)} ${how} 0 0\n`;
}

// The table's own escapes. A leading # cannot occur: paths are absolute.
function escaped(path: string): string {
  return path.replaceAll(/[\s\\]/g, (character) => `\\${character.charCodeAt(0).toString(8).padStart(3, "0")}`);
}
