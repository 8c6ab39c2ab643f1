import type { Socket } from "node:net";

/** Counts connections that have sent nothing yet, by address. */
export type SilentConnections = {
  /** Takes a place for a new connection; false when its address has too many. */
  admit(socket: Socket): boolean;
  /** Gives the place back: the connection has spoken. Safe to repeat. */
  spoke(socket: Socket): void;
};

/** One address may hold at most `limit` silent connections. Connections of a Unix socket have no address and are not counted. */
export function createSilentConnections(limit: number): SilentConnections {
  // By port too, because a TLS socket is another object than the connection it runs on.
  const silent = new Map<string, Set<number>>();
  const forget = (address: string, port: number): void => {
    const ports = silent.get(address);
    if (ports?.delete(port) && ports.size === 0) silent.delete(address);
  };
  return {
    admit(socket) {
      const { remoteAddress: address, remotePort: port } = socket;
      if (address === undefined || port === undefined) return true;
      const ports = silent.get(address) ?? new Set();
      if (ports.size >= limit) return false;
      silent.set(address, ports.add(port));
      socket.once("close", () => forget(address, port));
      return true;
    },
    spoke({ remoteAddress, remotePort }) {
      if (remoteAddress !== undefined && remotePort !== undefined) forget(remoteAddress, remotePort);
    },
  };
}
