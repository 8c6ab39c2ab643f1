import type { Duplex } from "node:stream";

/**
 * Joins two connections, byte for byte, at the pace of the slower one. An end of one direction ends that direction only; a
 * failure of one side, or `idleMs` without a byte, cuts both. `ended` is called once, when both are closed.
 */
export function joinConnections(inner: Duplex, outer: Duplex, idleMs: number, ended: () => void): void {
  const timer = setTimeout(() => {
    inner.destroy();
    outer.destroy();
  }, idleMs);
  let open = 2;
  for (const [from, to] of [
    [inner, outer],
    [outer, inner],
  ] as const) {
    from.allowHalfOpen = true;
    from.on("data", () => timer.refresh());
    // Whoever fails says so by closing, which is handled below.
    from.on("error", () => undefined);
    from.on("close", () => {
      // After an orderly end the other side may still be writing what it was given.
      if (from.errored || !from.readableEnded || !from.writableFinished) to.destroy();
      open -= 1;
      if (open > 0) return;
      clearTimeout(timer);
      ended();
    });
    from.pipe(to);
  }
}
