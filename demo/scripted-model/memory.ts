/**
 * The little that the scripted model remembers between requests: how often a rule began a reply
 * and how often a fault happened, each per place in a conversation. Bounded: the least recently
 * used places are forgotten first.
 */
export interface Counters {
  /** Counts one use of `key`; false, and nothing counted, when it was used `times` times already. */
  use(key: string, times: number): boolean;
}

export function createCounters(limit: number): Counters {
  const counts = new Map<string, number>();
  return {
    use(key, times) {
      const count = counts.get(key) ?? 0;
      counts.delete(key);
      counts.set(key, Math.min(count + 1, times));
      const [oldest] = counts.keys();
      if (counts.size > limit && oldest !== undefined) counts.delete(oldest);
      return count < times;
    },
  };
}

/** A list that keeps the newest items within a count and a total size; one item is always kept. */
export function createWindow<T>(limit: { items: number; bytes: number }) {
  const kept: { item: T; bytes: number }[] = [];
  let total = 0;
  return {
    add(item: T, bytes: number) {
      kept.push({ item, bytes });
      total += bytes;
      while (kept.length > 1 && (kept.length > limit.items || total > limit.bytes)) total -= kept.shift()?.bytes ?? 0;
    },
    items: (): T[] => kept.map(({ item }) => item),
  };
}
