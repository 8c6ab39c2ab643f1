/** A proxy that does to the connections through it what networks do: cuts them in the middle of whatever is on its way, delays, slices, or takes bytes and passes none on. */
import { type AddressInfo, connect, createServer, type NetConnectOpts, type Socket } from "node:net";
import { Transform } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

/** Towards the server, back from it, or both ways. */
export type Way = "there" | "back";

export type CuttingProxy = {
  port: number;
  /** Cuts what is open now; false when nothing is. */
  cut(): boolean;
  /** From now on every piece waits so long; 0 ends it. */
  delay(milliseconds: number): void;
  /** From now on pieces have at most so many bytes; Infinity ends it. */
  slice(bytes: number): void;
  /** From now on nothing passes in these directions, and nobody is told; none ends it, and what waited goes on. */
  mute(...ways: readonly Way[]): void;
  close(): Promise<void>;
};

/** What happens to bytes on their way. */
type Weather = { delayMs: number; sliceBytes: number; muted: ReadonlySet<Way>; cleared: Set<() => void> };

/** @param target a port of this machine, or whatever else `net.connect` takes. */
export async function startCuttingProxy(target: number | NetConnectOpts): Promise<CuttingProxy> {
  const sockets = new Set<Socket>();
  const weather: Weather = { delayMs: 0, sliceBytes: Number.POSITIVE_INFINITY, muted: new Set(), cleared: new Set() };
  const server = createServer((client) => {
    const upstream = connect(typeof target === "number" ? { port: target, host: "127.0.0.1" } : target);
    for (const [from, to, way] of [
      [client, upstream, "there"],
      [upstream, client, "back"],
    ] as const) {
      sockets.add(from);
      const passing = pass(weather, way);
      from.on("error", () => undefined);
      passing.on("error", () => undefined);
      from.on("close", () => {
        sockets.delete(from);
        passing.destroy();
        to.destroy();
      });
      from.pipe(passing).pipe(to);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const cut = (): boolean => {
    const found = sockets.size > 0;
    // Only TCP knows a reset; another kind of socket goes with its other half.
    for (const socket of sockets) if (socket.remoteAddress !== undefined) socket.resetAndDestroy();
    return found;
  };
  return {
    port: (server.address() as AddressInfo).port,
    cut,
    delay: (milliseconds) => void (weather.delayMs = milliseconds),
    slice: (bytes) => void (weather.sliceBytes = bytes),
    mute(...ways) {
      weather.muted = new Set(ways);
      for (const resume of weather.cleared) resume();
    },
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      cut();
      await closed;
    },
  };
}

function pass(weather: Weather, way: Way): Transform {
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      const calm = weather.delayMs === 0 && weather.muted.size === 0 && chunk.length <= weather.sliceBytes;
      if (calm) return done(null, chunk);
      carry(this, weather, way, chunk).then(() => done(), done);
    },
  });
}

async function carry(out: Transform, weather: Weather, way: Way, chunk: Buffer): Promise<void> {
  for (let at = 0; at < chunk.length; ) {
    while (weather.muted.has(way)) await untilCleared(out, weather);
    if (weather.delayMs > 0) await sleep(weather.delayMs);
    if (out.destroyed) return;
    const piece = chunk.subarray(at, at + Math.min(weather.sliceBytes, chunk.length));
    out.push(piece);
    at += piece.length;
    // So that slices leave as packets of their own.
    if (at < chunk.length) await sleep(0);
  }
}

function untilCleared(out: Transform, weather: Weather): Promise<void> {
  if (out.destroyed) throw new Error("cut while it waited");
  return new Promise((resolve) => {
    const resume = (): void => {
      weather.cleared.delete(resume);
      out.off("close", resume);
      resolve();
    };
    weather.cleared.add(resume);
    out.once("close", resume);
  });
}
