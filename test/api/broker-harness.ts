import http, { type IncomingMessage, type RequestListener } from "node:http";
import net from "node:net";
import pino from "pino";
import type { Caller } from "../../server/broker/callers.ts";
import { createEgressProxy, type EgressProxyDeps } from "../../server/broker/egress-proxy.ts";
import type { EgressDecision } from "../../server/broker/egress-rules.ts";
import { createMcpGateway, type McpLimits, type McpTarget } from "../../server/broker/mcp-gateway.ts";
import { createOutbound, type OutboundOptions } from "../../server/broker/outbound.ts";

export const token = "sk-ant-carrel-the-token-of-this-session";
export const otherToken = "sk-ant-carrel-the-token-of-another-session";
const session: Caller = { sessionId: "ses_1", ownerId: "usr_1", epoch: 1, box: "box_1" };
const other: Caller = { ...session, sessionId: "ses_2", box: "box_2" };

export type BrokerOptions = {
  outbound: OutboundOptions;
  allowedHosts?: string[];
  servers?: Record<string, McpTarget>;
  limits?: EgressProxyDeps["limits"];
  mcpLimits?: Partial<McpLimits>;
};

export type Broker = { port: number; url: string; decisions: EgressDecision[]; logged: string[]; close(): Promise<void> };

/** The broker's two doors behind a real HTTP server, as sandboxes see them. A second port stands for the other box's socket. */
export async function startBroker(options: BrokerOptions): Promise<Broker & { otherPort: number }> {
  const boxes = new WeakMap<object, string>();
  const decisions: EgressDecision[] = [];
  const logged: string[] = [];
  const outbound = createOutbound({ ownAddresses: () => [], ...options.outbound });
  const shared = {
    findPhantom: async (given: string) => ({ [token]: session, [otherToken]: other })[given],
    boxOf: (request: IncomingMessage) => boxes.get(request.socket),
    log: pino({ base: null }, { write: (line: string) => void logged.push(line) }),
  };
  const egress = createEgressProxy({
    ...shared,
    outbound,
    allowedHosts: async () => options.allowedHosts ?? [],
    onDecision: (_, decision) => decisions.push(decision),
    limits: options.limits ?? {},
  });
  const mcp = createMcpGateway({
    ...shared,
    dial: outbound.dial,
    findServer: async (_, name) => options.servers?.[name],
    limits: options.mcpLimits ?? {},
  });
  const server = http.createServer({ requestTimeout: 0 }, (request, response) =>
    request.url?.startsWith("/mcp/") ? mcp.handle(request, response) : egress.handleRequest(request, response),
  );
  server.on("connect", egress.handleConnect);
  const doors = await Promise.all(
    ["box_1", "box_2"].map((box) =>
      listen(
        net.createServer((socket) => {
          boxes.set(socket, box);
          socket.on("error", () => undefined);
          server.emit("connection", socket);
        }),
      ),
    ),
  );
  const [port, otherPort] = doors.map((door) => door.port) as [number, number];
  return {
    port,
    otherPort,
    url: `http://127.0.0.1:${port}`,
    decisions,
    logged,
    async close() {
      egress.close();
      mcp.close();
      server.closeAllConnections();
      await Promise.all(doors.map((door) => door.close()));
    },
  };
}

export type Listening = { port: number; close(): Promise<void> };

export async function listen(server: net.Server, host = "127.0.0.1"): Promise<Listening> {
  const sockets = new Set<net.Socket>();
  server.on("connection", (socket: net.Socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  return {
    port: (server.address() as net.AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
}

export function startUpstream(listener: RequestListener): Promise<Listening> {
  return listen(http.createServer(listener));
}

/** Sends bytes, and gives what came back when the other side is done, or after `patienceMs` without a byte. */
export function exchange(port: number, bytes: string | Uint8Array, patienceMs = 400): Promise<string> {
  return new Promise((resolve) => {
    let heard = "";
    const socket = net.connect(port, "127.0.0.1", () => socket.write(bytes));
    const done = (): void => {
      resolve(heard);
      socket.destroy();
    };
    socket.setTimeout(patienceMs, done);
    socket.on("data", (chunk) => {
      heard += chunk.toString("latin1");
    });
    socket.on("end", done);
    socket.on("error", done);
    socket.on("close", done);
  });
}

export const basic = (password = token, user = "carrel"): string => `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`;
export const proxyAuth = (password?: string): string => `Proxy-Authorization: ${basic(password)}\r\n`;
export const statusOf = (answer: string): number => Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? 0);
