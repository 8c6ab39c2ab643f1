// Which snapshots make up one state of a session, and when the next holds everything again.

/** What tells a snapshot's place: an increment has a base, one that holds everything has none. */
export type Member = { generation: number; base_generation: number | null };

/** Each member is fetched and unpacked on its own, and a file that changes every time is in all of them. */
const longestChain = 8;
/** Past this, bringing everything back costs half as much again as with one archive, and putting everything away saves that each time. */
const largestShare = 0.5;

/** The snapshots that have to be unpacked for that generation, in order: one that holds everything, and the increments to it. Empty when there is no such generation. */
export function chainOf<T extends Member>(snapshots: readonly T[], generation: number): T[] {
  const byGeneration = new Map(snapshots.map((one) => [one.generation, one]));
  const chain: T[] = [];
  for (let at: number | null = generation; at !== null; ) {
    const member = byGeneration.get(at);
    if (!member) return [];
    chain.unshift(member);
    at = member.base_generation;
  }
  return chain;
}

/** What a snapshot after the last of this chain may be an increment to; 0 when it is to hold everything. */
export function nextBase(chain: readonly (Member & { bytes: number })[]): number {
  const [whole, ...increments] = chain;
  if (!whole || chain.length >= longestChain) return 0;
  const bytes = increments.reduce((sum, one) => sum + one.bytes, 0);
  return bytes <= whole.bytes * largestShare ? chain.at(-1)!.generation : 0;
}

/** The oldest generation that is needed when every one from `oldestKept` on can be brought back. */
export function oldestNeeded(snapshots: readonly Member[], oldestKept: number): number {
  const oldest = snapshots.find(({ generation }) => generation >= oldestKept);
  return (oldest && chainOf(snapshots, oldest.generation)[0]?.generation) ?? oldestKept;
}

/** Where a session can be forked, oldest first: one snapshot for each event that one was made after, the newest. */
export function forkPoints<T extends { seq: number }>(snapshots: readonly T[]): T[] {
  return [...new Map(snapshots.map((one) => [one.seq, one])).values()];
}
