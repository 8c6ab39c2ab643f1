import type { IncomingMessage } from "node:http";
import { createContextValues } from "@connectrpc/connect";
import { ChannelService } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { notFound, refusal } from "../../errors.ts";
import { targetOf } from "../../http/message.ts";
import { type Authorize, requireUser } from "../../identity/authorize.ts";
import type { User } from "../../identity/principal.ts";
import type { JournalReader } from "../../journal/reader.ts";
import type { SessionRow } from "../../journal/store.ts";

/** A connection that may be made: whose, of what, and from where. */
export type Attachment = {
  user: User;
  session: SessionRow;
  /** The last event the client has; undefined when it wants the history. */
  afterSeq: number | undefined;
  includeDeltas: boolean;
};

export type HandshakeDeps = {
  authorize: Authorize;
  redeemTicket(ticket: string, sessionId: string): Promise<User>;
  reader: Pick<JournalReader, "session">;
};

type Query = URLSearchParams;

/** True for a client that says in the URL who it is, as browsers must: it cannot read the HTTP answer of a refused upgrade. */
export function saysWhoInUrl(request: IncomingMessage): boolean {
  const query = queryOf(request);
  return request.headers.authorization === undefined && (query.has("token") || query.has("ticket"));
}

/** Decides a handshake. Rejects with the refusal: who calls is decided before what they ask for, and that before whose it is. */
export async function admit(request: IncomingMessage, deps: HandshakeDeps): Promise<Attachment> {
  const query = queryOf(request);
  const user = await callerOf(request, query, deps);
  const afterSeq = afterSeqOf(query);
  const includeDeltas = includeDeltasOf(query);
  const session = await deps.reader.session(user.userId, sessionIdOf(request));
  if (afterSeq !== undefined && afterSeq > session.last_seq) {
    const metadata = { after_seq: String(afterSeq), last_seq: String(session.last_seq) };
    throw refusal(ErrorReason.INVALID_CURSOR, `after_seq is ${afterSeq}, but the log ends at ${session.last_seq}`, metadata);
  }
  return { user, session, afterSeq, includeDeltas };
}

/** A header goes before a ticket, and a ticket before a token in the URL: a ticket is used up only where it decides. */
async function callerOf(request: IncomingMessage, query: Query, { authorize, redeemTicket }: HandshakeDeps): Promise<User> {
  const ticket = query.get("ticket");
  if (ticket !== null && request.headers.authorization === undefined) return redeemTicket(ticket, sessionIdOf(request));
  const values = createContextValues();
  // What a WebSocket does first and all the time; what it does later asks for nothing more than this and the session's owner.
  await authorize(ChannelService.method.watchEvents, headerOf(request, query), values);
  return requireUser({ values });
}

/** The session a handshake names; NOT_FOUND for what is no id at all. */
export function sessionIdOf(request: IncomingMessage): string {
  const id = targetOf(request.url)
    ?.path.split("/")
    .find((part) => /^ses_[0-9a-f]{32}$/.test(part));
  if (id === undefined) throw notFound("session");
  return id;
}

function queryOf(request: IncomingMessage): Query {
  return new URLSearchParams(targetOf(request.url)?.query);
}

/** The header by which everybody else authenticates. A token that could not stand in one is no token. */
function headerOf(request: IncomingMessage, query: Query): Headers {
  const { authorization } = request.headers;
  if (authorization !== undefined) return new Headers({ authorization });
  const token = query.get("token");
  if (token === null) return new Headers();
  return new Headers({ authorization: /^[\x21-\x7e]+$/.test(token) ? `Bearer ${token}` : "malformed" });
}

function afterSeqOf(query: Query): number | undefined {
  const text = query.get("after_seq");
  if (text === null) return undefined;
  const number = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (number <= 0x7fffffff) return number;
  throw refusal(ErrorReason.INVALID_ARGUMENT, "after_seq: expected the number of an event, or 0", { field: "after_seq" });
}

function includeDeltasOf(query: Query): boolean {
  const text = query.get("include_deltas") ?? "false";
  if (text === "true" || text === "false") return text === "true";
  throw refusal(ErrorReason.INVALID_ARGUMENT, "include_deltas: expected true or false", { field: "include_deltas" });
}
