import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../errors.ts";
import { targetOf } from "./message.ts";
import { type Origins, originRefused } from "./origins.ts";
import { rawAnswerOf, writeRawAnswer } from "./raw-answers.ts";

/**
 * Takes over a WebSocket handshake on one of the session paths. The query may carry a token or a ticket: never log
 * `request.url`.
 */
export type UpgradeHandler = (request: IncomingMessage, socket: Duplex, head: Buffer) => void;

const paths = [/^\/v1\/sessions\/[^/]+\/ws$/, /^\/v1\/ws\/sessions\/[^/]+$/];

/** True for the header of a WebSocket handshake; every other Upgrade header is ignored, as HTTP allows. */
export function wantsWebSocket(request: IncomingMessage): boolean {
  return request.headers.upgrade?.toLowerCase() === "websocket";
}

/** Routes handshakes; what may not pass gets an HTTP answer on the socket. */
export function createUpgradeRouter(origins: Origins, onUpgrade: UpgradeHandler | undefined): UpgradeHandler {
  return (request, socket, head) => {
    // Without a listener a reset by the peer would be an uncaught error.
    socket.on("error", () => socket.destroy());
    const refuse = (error: Error): void => writeRawAnswer(socket, rawAnswerOf(error));
    const path = targetOf(request.url)?.path;
    if (!onUpgrade || path === undefined || !paths.some((one) => one.test(path)))
      return refuse(refusal(ErrorReason.NOT_FOUND, "no such path"));
    if (!origins.allows(request)) return refuse(originRefused(request));
    if (request.method !== "GET") return refuse(refusal(ErrorReason.METHOD_NOT_ALLOWED, "a handshake is a GET", { allowed: "GET" }));
    // The inactivity limit of HTTP/1.1 sockets is not the WebSocket's: it has a heartbeat of its own.
    request.socket.setTimeout(0);
    onUpgrade(request, socket, head);
  };
}
