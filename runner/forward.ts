import net from "node:net";

/**
 * Joins the sandbox's own loopback to the channel: the agent speaks plain HTTP to a port, the bytes go to the control
 * plane's socket untouched. Knows nothing of what passes; who may do what is decided on the other side.
 */
export async function forwardLoopback(socketPath: string): Promise<{ url: string; close(): void }> {
  const server = net.createServer({ noDelay: true }, (inner) => {
    const outer = net.connect(socketPath);
    for (const [from, to] of [
      [inner, outer],
      [outer, inner],
    ] as const) {
      from.pipe(to);
      // A half that fails takes the other with it; the agent sees a refused or cut connection and retries.
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
    }
  });
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  return { url: `http://127.0.0.1:${port}`, close: () => void server.close() };
}
