import net from "node:net";

/**
 * Joins the sandbox's own loopback to the channel: the agent speaks plain HTTP to a port, the bytes go to the control
 * plane's socket untouched. Knows nothing of what passes; who may do what is decided on the other side.
 */
export async function forwardLoopback(socketPath: string): Promise<{ url: string; close(): void }> {
  // Either side may finish speaking and go on listening: a tunnel through the proxy needs that.
  const server = net.createServer({ noDelay: true, allowHalfOpen: true }, (inner) => {
    const outer = net.connect({ path: socketPath, allowHalfOpen: true });
    join(inner, outer);
    join(outer, inner);
  });
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  return { url: `http://127.0.0.1:${port}`, close: () => void server.close() };
}

/** A side that fails takes the other with it; one that ends in order lets the other finish. */
function join(from: net.Socket, to: net.Socket): void {
  from.pipe(to);
  from.on("error", () => to.destroy());
  from.on("close", () => {
    if (from.errored || !from.readableEnded || !from.writableFinished) to.destroy();
  });
}
