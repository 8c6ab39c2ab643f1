/** Why something cannot be in a memory bank; the words are those of the `memory_refused` event. */
export type Refused =
  | "invalid_path"
  | "too_large"
  | "not_text"
  | "not_a_file"
  | "too_many"
  | "bank_full"
  | "path_conflict"
  | "profile_gone";

export const limits = {
  entries: 100,
  entryBytes: 64 * 1024,
  totalBytes: 5 * 1024 * 1024,
  pathCharacters: 256,
  segments: 5,
} as const;

const segment = /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/;

/** What is wrong with a path, in a few words; undefined for a good one. */
export function problemOfPath(path: string): string | undefined {
  if (path === "") return "must not be empty";
  if (path.length > limits.pathCharacters) return `longer than ${limits.pathCharacters} characters`;
  const segments = path.split("/");
  if (segments.length > limits.segments) return `deeper than ${limits.segments} segments`;
  if (segments.every((one) => segment.test(one))) return undefined;
  return "must be relative, of A-Z a-z 0-9 . _ - and single /, no segment beginning with a dot";
}

/** A file in a bank as the limits see it. */
export type Entry = { path: string; size: number };

/** Whether a file may be written beside what the bank holds; undefined when it may. */
export function problemOfEntry(bank: readonly Entry[], { path, size }: Entry): Refused | undefined {
  if (size > limits.entryBytes) return "too_large";
  const others = bank.filter((entry) => entry.path !== path);
  // One of the two would have to be a file and a directory.
  if (others.some((entry) => isBelow(entry.path, path) || isBelow(path, entry.path))) return "path_conflict";
  if (others.length >= limits.entries) return "too_many";
  if (others.reduce((sum, entry) => sum + entry.size, size) > limits.totalBytes) return "bank_full";
  return undefined;
}

function isBelow(path: string, directory: string): boolean {
  return path.startsWith(`${directory}/`);
}

/** Bytes as text, or undefined when they are not UTF-8. A byte order mark is part of the text. */
export function textOf(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}
