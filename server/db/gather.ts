/**
 * Looks for many things at once: what is asked for in one turn of the event loop goes into one call of `load`, which is given
 * each thing once and returns what it found by its key. A call costs a server more than what it finds, and calls come in
 * crowds. A look begins after everybody in it has asked, so nobody is shown what was true before. A failure is everybody's.
 */
export function gather<Asked, Found>(
  keyOf: (asked: Asked) => string,
  load: (asked: readonly Asked[]) => Promise<ReadonlyMap<string, Found>>,
): (asked: Asked) => Promise<Found | undefined> {
  let next: { asked: Map<string, Asked>; found: Promise<ReadonlyMap<string, Found>> } | undefined;
  const open = () => {
    const asked = new Map<string, Asked>();
    const { promise: found, resolve } = Promise.withResolvers<ReadonlyMap<string, Found>>();
    // By then, whatever came in with this turn has been handled as far as it goes without waiting.
    setImmediate(() => {
      next = undefined;
      resolve(Promise.try(load, [...asked.values()]));
    });
    return { asked, found };
  };
  return async (asked) => {
    next ??= open();
    const { found } = next;
    const key = keyOf(asked);
    next.asked.set(key, asked);
    return (await found).get(key);
  };
}
