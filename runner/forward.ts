import { once } from "node:events";
import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** How long the agent waits for a control plane that is away before it is told so. A restart takes a few seconds. */
const usualPatienceMs = 30_000;
const longestPauseMs = 500;

/**
 * Joins the sandbox's own loopback to the channel: the agent speaks plain HTTP to a port, the bytes go to the control
 * plane's socket untouched. Knows nothing of what passes; who may do what is decided on the other side. Nothing is read of a
 * connection until the other side is there, so that the agent, which waits longer after each failure, notices no restart between
 * two requests.
 */
export async function forwardLoopback(socketPath: string, patienceMs = usualPatienceMs): Promise<{ url: string; close(): void }> {
  // Either side may finish speaking and go on listening: a tunnel through the proxy needs that.
  const server = net.createServer({ noDelay: true, allowHalfOpen: true }, async (inner) => {
    inner.on("error", () => inner.destroy());
    const outer = await reach(socketPath, patienceMs, () => inner.destroyed);
    if (!outer) return void inner.destroy();
    join(inner, outer);
    join(outer, inner);
  });
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  return { url: `http://127.0.0.1:${port}`, close: () => void server.close() };
}

/** A connection, once there is somebody to connect to; undefined when nobody came in time, or nobody waits any more. */
async function reach(socketPath: string, patienceMs: number, isGivenUp: () => boolean): Promise<net.Socket | undefined> {
  const giveUpAt = performance.now() + patienceMs;
  for (let pauseMs = 10; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    const outer = net.connect({ path: socketPath, allowHalfOpen: true });
    const isThere = await once(outer, "connect").then(
      () => true,
      () => false,
    );
    if (isThere && !isGivenUp()) return outer;
    outer.destroy();
    if (isGivenUp() || performance.now() > giveUpAt) return undefined;
    await sleep(pauseMs);
  }
}

/** A side that fails takes the other with it; one that ends in order lets the other finish. */
function join(from: net.Socket, to: net.Socket): void {
  from.pipe(to);
  from.on("error", () => to.destroy());
  from.on("close", () => {
    if (from.errored || !from.readableEnded || !from.writableFinished) to.destroy();
  });
}
