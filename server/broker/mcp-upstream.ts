import http, { type ClientRequest } from "node:http";
import https from "node:https";
import type net from "node:net";
import type { Duplex } from "node:stream";
import tls from "node:tls";
import { type Host, parseHost } from "./host-pattern.ts";
import type { Outbound } from "./outbound.ts";

export type McpUpstream = {
  /** Starts a request; connections are kept for later ones of the same session only. */
  request(sessionId: string, url: URL, options: { method: string; headers: http.OutgoingHttpHeaders }): ClientRequest;
  close(): void;
};

/** Less than the five seconds after which common servers close an idle connection, which a request could run into. */
const idleConnectionMs = 4_000;

/** Requests to MCP servers, over connections that `outbound` judged. Redirects are not followed. */
export function createMcpUpstream(dial: Outbound["dial"]): McpUpstream {
  const agents = { "http:": guard(new http.Agent(pooling), dial, false), "https:": guard(new https.Agent(pooling), dial, true) };
  return {
    request(sessionId, url, { method, headers }) {
      const secure = url.protocol === "https:";
      // The agent hands what it is asked with to `getName`: a connection that one tenant upset is nobody else's.
      const options: Options = {
        agent: agents[secure ? "https:" : "http:"],
        hostname: url.hostname,
        port: url.port || (secure ? 443 : 80),
        path: url.pathname + url.search,
        method,
        headers: { ...headers, host: url.host },
        sessionId,
      };
      return (secure ? https : http).request(options);
    },
    close() {
      for (const agent of Object.values(agents)) agent.destroy();
    },
  };
}

const handshakeMs = 10_000;

const pooling: http.AgentOptions = { keepAlive: true, timeout: idleConnectionMs };

type Options = http.ClientRequestArgs & { sessionId?: string };

function guard<A extends http.Agent>(agent: A, dial: Outbound["dial"], secure: boolean): A {
  const nameOf = agent.getName.bind(agent);
  agent.getName = (options?: Options) => `${options?.sessionId}:${nameOf(options)}`;
  agent.createConnection = (options: Options, done?: (error: Error | null, stream: Duplex) => void) => {
    const failed = (error: Error): void => (done as (error: Error) => void)(error);
    open(options, dial, secure).then((socket) => done?.(null, socket), failed);
    return undefined;
  };
  return agent;
}

async function open(options: Options, dial: Outbound["dial"], secure: boolean): Promise<Duplex> {
  const host = parseHost(options.hostname ?? "");
  if (!host) throw new Error("its URL has a host that is refused");
  const dialled = await dial(host, Number(options.port));
  if ("failure" in dialled) throw Object.assign(new Error(dialled.detail), { code: dialled.failure });
  const { socket } = dialled;
  return secure ? encrypt(socket, host) : socket;
}

function encrypt(socket: net.Socket, host: Host): Promise<tls.TLSSocket> {
  return new Promise((resolve, reject) => {
    const secured = tls.connect({
      socket,
      host: host.text,
      ALPNProtocols: ["http/1.1"],
      ...(host.address ? {} : { servername: host.text }),
    });
    const timer = setTimeout(() => secured.destroy(new Error("no TLS handshake in time")), handshakeMs);
    secured.once("close", () => clearTimeout(timer));
    secured.once("error", reject);
    secured.once("secureConnect", () => {
      clearTimeout(timer);
      secured.off("error", reject);
      resolve(secured);
    });
  });
}
