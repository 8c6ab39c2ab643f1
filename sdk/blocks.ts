import type { Delta } from "../gen/carrel/v1/event_pb.ts";

/** Puts deltas together, so that what is shown of a block grows without gap or repetition until its event replaces it. */
export type LiveBlocks = {
  /** What this delta adds to what is known of its block: "" when it repeats, or when a piece before it was lost. */
  add(delta: Delta): string;
  /** What is known of a block so far. */
  textOf(blockId: string): string;
  /** Forgets a block whose event has come. */
  finish(blockId: string): void;
};

export function createLiveBlocks(): LiveBlocks {
  const texts = new Map<string, string>();
  return {
    add({ blockId, offset, text }) {
      const known = texts.get(blockId) ?? "";
      // After a lost piece nothing can be appended any more; the event will bring the rest.
      if (offset > known.length) return "";
      const added = text.slice(known.length - offset);
      if (added !== "") texts.set(blockId, known + added);
      return added;
    },
    textOf: (blockId) => texts.get(blockId) ?? "",
    finish(blockId) {
      texts.delete(blockId);
    },
  };
}
