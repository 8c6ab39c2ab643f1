import { chmod, rm } from "node:fs/promises";
import net from "node:net";
import type { Log } from "../log.ts";

/** One Unix socket for each box, all served by the same HTTP server. Which socket a call came through is known. */
export type RunnerListener = {
  /** Listens on `path` for the sandboxes of a box; does nothing when it already does. */
  open(box: string, path: string): Promise<void>;
  close(box: string): Promise<void>;
  closeAll(): Promise<void>;
  readonly size: number;
};

/** The runner needs one, its agent a handful at once; a sandbox that wants more only keeps itself waiting. */
const connectionsPerBox = 64;

/** @param accept takes over a connected socket of a box. */
export function createRunnerListener(accept: (socket: net.Socket, box: string) => void, log: Log): RunnerListener {
  const servers = new Map<string, { server: net.Server; sockets: Set<net.Socket> }>();

  const close = async (box: string): Promise<void> => {
    const open = servers.get(box);
    if (!open) return;
    servers.delete(box);
    for (const socket of open.sockets) socket.destroy();
    await new Promise<void>((resolve) => open.server.close(() => resolve()));
  };

  return {
    async open(box, path) {
      if (servers.has(box)) return;
      const sockets = new Set<net.Socket>();
      const server = net.createServer((socket) => {
        sockets.add(socket);
        socket.on("close", () => sockets.delete(socket));
        socket.on("error", (error) => log.debug({ box, error: error.message }, "sandbox socket failed"));
        accept(socket, box);
      });
      server.maxConnections = connectionsPerBox;
      servers.set(box, { server, sockets });
      // A socket file of an earlier process answers nobody; the sandbox sees the new one through the directory it was given.
      await rm(path, { force: true });
      await new Promise<void>((resolve, reject) => server.once("error", reject).listen(path, resolve));
      await chmod(path, 0o666);
    },
    close,
    async closeAll() {
      await Promise.all([...servers.keys()].map(close));
    },
    get size() {
      return servers.size;
    },
  };
}
