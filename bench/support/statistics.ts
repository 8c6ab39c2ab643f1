/** The value below which this share of the values lies; `share` from 0 to 1. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const value = sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  if (value === undefined) throw new Error("no values were measured");
  return value;
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

/**
 * Measures two things in turns, so that what else the machine does falls on both alike. The first is first in every other
 * round. Before the first round that counts, each has `warmUps` that do not, to be compiled by then.
 */
export async function inTurns<A, B>(
  rounds: number,
  ours: () => Promise<A>,
  floor: () => Promise<B>,
  warmUps = 0,
): Promise<{ ours: A[]; floor: B[] }> {
  const values: { ours: A[]; floor: B[] } = { ours: [], floor: [] };
  for (let round = 0; round < warmUps; round += 1) {
    await ours();
    await floor();
  }
  for (let round = 0; round < rounds; round += 1) {
    if (round % 2 === 0) values.ours.push(await ours());
    values.floor.push(await floor());
    if (round % 2 === 1) values.ours.push(await ours());
  }
  return values;
}
