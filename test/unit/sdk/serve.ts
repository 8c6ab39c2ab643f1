/** Serves Connect routes on a loopback port, over clear-text HTTP/2 or HTTP/1.1, for tests of clients. */
import http from "node:http";
import http2 from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

export type Served = {
  url: string;
  /** Cuts every open connection without a word. */
  cutConnections(): void;
  close(): Promise<void>;
};

export async function serve(routes: (router: ConnectRouter) => void, httpVersion: "1.1" | "2" = "2"): Promise<Served> {
  const handler = connectNodeAdapter({ routes });
  const server = httpVersion === "2" ? http2.createServer(handler) : http.createServer(handler);
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    // A cut connection is what these tests are about.
    socket.on("error", () => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const cutConnections = () => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cutConnections,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        cutConnections();
      }),
  };
}
