import { Code, ConnectError, createContextKey, type HandlerContext, type Interceptor } from "@connectrpc/connect";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../errors.ts";
import type { Guard } from "../journal/journal.ts";
import type { SessionCore } from "../journal/store.ts";
import { holdsLease } from "./rules.ts";

/** The right of one runner to act for one session. */
export type Lease = { sessionId: string; epoch: number; box: string | null };

export const leaseKey = createContextKey<Lease | undefined>(undefined, { description: "carrel.lease" });

/** The box whose socket a call came through; undefined where the transport cannot tell. */
export const socketBoxKey = createContextKey<string | undefined>(undefined, { description: "carrel.socket-box" });

/** Leases remembered by the hash of their token. A lease never changes its session or epoch, so remembering is safe: fencing is the append statement's. */
const remembered = 10_000;

export type LeaseFinderDeps = {
  hashToken(token: string): Uint8Array;
  findLease(hash: Uint8Array): Promise<{ id: string; epoch: number; box: string | null } | undefined>;
};

/** The lease that a request's header proves, on the socket of its own box; refuses everything else. */
export type FindLease = (authorization: string | null | undefined, box: string | undefined) => Promise<Lease>;

export function createLeaseFinder({ hashToken, findLease }: LeaseFinderDeps): FindLease {
  const leases = new Map<string, Lease>();
  const find = async (token: string): Promise<Lease> => {
    const known = leases.get(token);
    if (known) return known;
    const row = await findLease(hashToken(token));
    if (!row) throw fenced();
    if (leases.size >= remembered) leases.delete(leases.keys().next().value!);
    const lease = { sessionId: row.id, epoch: row.epoch, box: row.box };
    leases.set(token, lease);
    return lease;
  };
  return async (authorization, box) => {
    const lease = await find(bearer(authorization));
    if (box !== undefined && box !== lease.box) throw fenced();
    return lease;
  };
}

/** Puts the caller's lease into the context of every call but Attach, or refuses. */
export function createLeaseInterceptor(findLease: FindLease): Interceptor {
  return (next) => async (request) => {
    if (request.method.name !== "Attach") {
      const lease = await findLease(request.header.get("authorization"), request.contextValues.get(socketBoxKey));
      request.contextValues.set(leaseKey, lease);
    }
    return next(request);
  };
}

/** The lease of a call, checked against what the message says. */
export function requireLease(context: HandlerContext, message: { sessionId: string; epoch: number }): Lease {
  const lease = context.values.get(leaseKey);
  if (!lease) throw new ConnectError("no lease in the context", Code.Internal);
  if (message.sessionId !== lease.sessionId || message.epoch !== lease.epoch) throw fenced();
  return lease;
}

/** Refuses unless the lease's epoch is the session's newest: the check that fences a runner of the past. */
export function underLease(lease: Lease): Guard {
  return (session) => holding(lease, session);
}

/** The session as it was read, if the lease is its newest; for what is not written in the same statement, a first look. */
export function holding<T extends Pick<SessionCore, "epoch" | "state">>(lease: Lease, session: T | undefined): T {
  if (!session || !holdsLease(session, lease.epoch)) throw fenced();
  return session;
}

export function fenced(): ConnectError {
  return refusal(ErrorReason.FENCED, "this runner no longer holds the lease of its session");
}

function bearer(authorization: string | null | undefined): string {
  const match = /^Bearer ([\x21-\x7e]{1,200})$/.exec(authorization ?? "");
  if (!match?.[1]) throw fenced();
  return match[1];
}
