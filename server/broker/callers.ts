import type { IncomingMessage } from "node:http";
import { isServerUnavailable } from "../db/failures.ts";
import type { PhantomSession } from "./phantom.ts";

/** The session that asks. */
export type Caller = Pick<PhantomSession, "sessionId" | "ownerId" | "epoch" | "box">;

export type CallerDeps = {
  /** The live session a phantom token belongs to; undefined for every other token. */
  findPhantom(token: string): Promise<Caller | undefined>;
  /** The box whose socket a request came through. */
  boxOf(request: IncomingMessage): string | undefined;
};

/** The session that asks: its token, through the socket of its own box. A stolen token is worth nothing elsewhere. */
export async function findCaller(deps: CallerDeps, request: IncomingMessage, token: string | undefined): Promise<Caller | undefined> {
  if (!token || token.length > 200) return undefined;
  const session = await deps.findPhantom(token);
  return session && deps.boxOf(request) === session.box ? session : undefined;
}

/** `Authorization: Bearer`, or `x-api-key` when it is there. */
export function tokenOf({ headers }: IncomingMessage): string | undefined {
  const key = headers["x-api-key"];
  return typeof key === "string" ? key : /^Bearer ([^\s]+)$/i.exec(headers.authorization ?? "")?.[1];
}

/** The password of `Proxy-Authorization: Basic`, for the user `carrel`. */
export function proxyTokenOf({ headers }: IncomingMessage): string | undefined {
  const encoded = /^Basic ([A-Za-z0-9+/]{1,400}={0,2})$/i.exec(headers["proxy-authorization"] ?? "")?.[1];
  if (encoded === undefined) return undefined;
  const [user, ...password] = Buffer.from(encoded, "base64").toString("latin1").split(":");
  return user === "carrel" ? password.join(":") : undefined;
}

/** What a door answers when it failed itself. A database that is away is worth another try. */
export function failureOf(error: Error): { status: 500 | 503; text: string } {
  return isServerUnavailable(error)
    ? { status: 503, text: "Carrel cannot reach its database at the moment" }
    : { status: 500, text: "the broker failed" };
}
