import { hash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { type MemoryChange, MemoryChangeSchema, MemoryRemovalSchema } from "../gen/carrel/runner/v1/memory_pb.ts";
import { type Look, readMemory, type Signature } from "./memory-files.ts";

/** What the runner knows of the bank and has said of the directory. */
export type Book = {
  /** Hashes of what the bank has, as far as this runner knows. */
  known: Map<string, string>;
  /** What has been told, taken or not, and need not be told again until it changes. */
  told: Map<string, Signature>;
  /** Files that were not taken. */
  refused: Set<string>;
};

/** Something to tell, and what to note once it is told. */
export type Pending = { change: MemoryChange; bytes: number; done(refused: boolean): void };

/** One more than a bank holds, so that it is refused and said. */
const mostFiles = 101;
const mostObstacles = 100;

/** All that a look shows and has not been told. Removals come first: what is written may need their room, or their names. */
export async function findChanges(book: Book, directory: string, look: Look): Promise<Pending[]> {
  forgetGone(book, look);
  const gone = findRemovals(book, look);
  // There may be room now for what found none.
  if (gone.length > 0) for (const path of book.refused) book.told.delete(path);
  return [...gone, ...(await findEdits(book, directory, look)), ...findObstacles(book, look)];
}

function forgetGone({ told, refused }: Book, look: Look): void {
  for (const path of told.keys()) if (!look.files.has(path) && !look.obstacles.has(path)) told.delete(path);
  for (const path of refused) if (!look.files.has(path)) refused.delete(path);
}

function findRemovals({ known, told }: Book, look: Look): Pending[] {
  if (!look.whole) return [];
  // What is behind an obstacle is hidden, not deleted; so is everything while the directory itself is away.
  const hidden = (path: string) => [...look.obstacles.keys()].some((one) => one === "." || path === one || path.startsWith(`${one}/`));
  const gone = [...known.keys()].filter((path) => !look.files.has(path) && !hidden(path));
  return gone.map((path) =>
    pending(path, { case: "removal", value: create(MemoryRemovalSchema) }, (isRefused) => {
      told.delete(path);
      if (!isRefused) known.delete(path);
    }),
  );
}

async function findEdits({ known, told, refused }: Book, directory: string, look: Look): Promise<Pending[]> {
  const rank = (path: string): number => (known.has(path) ? 0 : refused.has(path) ? 2 : 1);
  const paths = [...look.files.keys()].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1)).slice(0, mostFiles);
  const found: Pending[] = [];
  for (const path of paths) {
    if (told.get(path) === look.files.get(path)) continue;
    const read = await readMemory(directory, path);
    if (!read) continue;
    const digest = hash("sha256", read.content, "hex");
    const note = (isRefused: boolean): void => {
      told.set(path, read.signature);
      if (isRefused) return void refused.add(path);
      refused.delete(path);
      known.set(path, digest);
    };
    if (known.get(path) === digest) note(false);
    else found.push(pending(path, { case: "content", value: read.content }, note));
  }
  return found;
}

function findObstacles({ told }: Book, look: Look): Pending[] {
  return [...look.obstacles]
    .filter(([path, kind]) => told.get(path) !== `obstacle ${kind}`)
    .slice(0, mostObstacles)
    .map(([path, kind]) => pending(path, { case: "obstacle", value: kind }, () => void told.set(path, `obstacle ${kind}`)));
}

function pending(path: string, kind: MemoryChange["kind"], done: (refused: boolean) => void): Pending {
  const bytes = kind.case === "content" ? kind.value.length : 0;
  return { change: create(MemoryChangeSchema, { path, kind }), bytes, done };
}
