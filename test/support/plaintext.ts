/** Looks for a text that must not be somewhere, in every form in which it would still be readable. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** The text itself, in base64 at each of its three alignments (both alphabets), in hex, and percent-encoded. */
export function formsOf(text: string): Record<string, Buffer> {
  const bytes = Buffer.from(text);
  const aligned = [0, 1, 2].map((shift) => {
    const encoded = Buffer.concat([Buffer.alloc(shift), bytes])
      .toString("base64")
      .replace(/=+$/, "");
    // The characters at both ends depend on the neighbours.
    return encoded.slice(shift === 0 ? 0 : shift + 1, -1);
  });
  const forms = {
    raw: text,
    hex: bytes.toString("hex"),
    HEX: bytes.toString("hex").toUpperCase(),
    utf16: Buffer.from(text, "utf16le").toString("latin1"),
    url: [...bytes].map((byte) => `%${byte.toString(16).padStart(2, "0")}`).join(""),
    ...Object.fromEntries(aligned.map((form, shift) => [`base64+${shift}`, form])),
    ...Object.fromEntries(aligned.map((form, shift) => [`base64url+${shift}`, form.replaceAll("+", "-").replaceAll("/", "_")])),
  };
  return Object.fromEntries(Object.entries(forms).map(([name, form]) => [name, Buffer.from(form, "latin1")]));
}

export type Hit = { what: string; form: string; where: string };

/** Every occurrence of the marks in these bytes. */
export function findIn(bytes: Buffer, where: string, marks: Readonly<Record<string, string>>): Hit[] {
  return Object.entries(marks).flatMap(([what, text]) =>
    Object.entries(formsOf(text)).flatMap(([form, needle]) => (bytes.includes(needle) ? [{ what, form, where }] : [])),
  );
}

/** The same for every file below a directory. `skip` names directories to leave out, by full path. */
export function findBelow(
  directory: string,
  marks: Readonly<Record<string, string>>,
  skip: readonly string[] = [],
): { hits: Hit[]; files: number; bytes: number } {
  const all = { hits: [] as Hit[], files: 0, bytes: 0 };
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (skip.includes(path)) continue;
    all.hits.push(...findIn(Buffer.from(entry.name), `the name of ${path}`, marks));
    if (entry.isDirectory()) {
      const below = findBelow(path, marks, skip);
      all.hits.push(...below.hits);
      all.files += below.files;
      all.bytes += below.bytes;
    } else if (entry.isFile()) {
      const bytes = readFileSync(path);
      all.files += 1;
      all.bytes += bytes.length;
      all.hits.push(...findIn(bytes, path, marks));
    }
  }
  return all;
}
