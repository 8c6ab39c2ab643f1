import type { Socket } from "node:net";

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/** What the first bytes of a connection say. */
export type FirstBytes = "http1" | "http2" | "silent";

/**
 * Looks at the first bytes of a connection without consuming them. Answers as soon as they cannot be HTTP/2's preface or
 * are all of it; `silent` when neither is clear within `timeoutMs`, or the connection ended.
 */
export function peekProtocol(socket: Socket, timeoutMs: number): Promise<FirstBytes> {
  return new Promise((resolve) => {
    let held: Buffer = Buffer.alloc(0);
    const finish = (result: FirstBytes): void => {
      clearTimeout(timer);
      socket.off("readable", look);
      socket.off("end", giveUp);
      socket.off("close", giveUp);
      if (result !== "silent" && held.byteLength > 0) socket.unshift(held);
      resolve(result);
    };
    const giveUp = (): void => finish("silent");
    const look = (): void => {
      const chunk = socket.read() as Buffer | null;
      if (!chunk) return;
      held = held.byteLength === 0 ? chunk : Buffer.concat([held, chunk]);
      const length = Math.min(held.byteLength, preface.byteLength);
      if (!held.subarray(0, length).equals(preface.subarray(0, length))) finish("http1");
      else if (length === preface.byteLength) finish("http2");
    };
    const timer = setTimeout(giveUp, timeoutMs);
    socket.on("readable", look);
    socket.once("end", giveUp);
    socket.once("close", giveUp);
  });
}
