/** A bounded map whose entries end by themselves. */
export type TtlCache<Value> = {
  /** Undefined when there is none or its time is over. */
  get(key: string): Value | undefined;
  /** `until` on the cache's clock. */
  set(key: string, value: Value, until: number): void;
  /** With `value`, only if that is still what is held. */
  delete(key: string, value?: Value): void;
  clear(): void;
};

/** The least recently used entry makes room for a new one. */
export function createTtlCache<Value>(maxEntries: number, now: () => number): TtlCache<Value> {
  const entries = new Map<string, { value: Value; until: number }>();
  return {
    get(key) {
      const entry = entries.get(key);
      if (!entry) return undefined;
      // A Map keeps insertion order: put back last, the first is always the least recently used.
      entries.delete(key);
      if (entry.until <= now()) return undefined;
      entries.set(key, entry);
      return entry.value;
    },
    set(key, value, until) {
      entries.delete(key);
      entries.set(key, { value, until });
      if (entries.size <= maxEntries) return;
      const oldest = entries.keys().next();
      if (!oldest.done) entries.delete(oldest.value);
    },
    clear: () => entries.clear(),
    delete(key, value) {
      if (value === undefined || entries.get(key)?.value === value) entries.delete(key);
    },
  };
}
