import type { WebSocket } from "ws";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../../errors.ts";
import type { SocketLimits } from "./limits.ts";

/** Pings, and ends a connection whose client gives no sign of life. Returns what stops it. */
export function keepAlive(
  socket: WebSocket,
  limits: Pick<SocketLimits, "pingMs" | "idleMs">,
  finish: (error: unknown) => void,
): () => void {
  let seen = performance.now();
  const touch = (): void => {
    seen = performance.now();
  };
  for (const sign of ["message", "ping", "pong"] as const) socket.on(sign, touch);
  const pings = setInterval(() => socket.ping(), limits.pingMs);
  let idle: NodeJS.Timeout;
  // Set anew only when it fires: not for each of many messages.
  const check = (): void => {
    const left = seen + limits.idleMs - performance.now();
    if (left > 0) idle = setTimeout(check, left);
    else finish(refusal(ErrorReason.DEADLINE_EXCEEDED, "no sign of life: connect again with after_seq"));
  };
  idle = setTimeout(check, limits.idleMs);
  return () => {
    clearInterval(pings);
    clearTimeout(idle);
  };
}
