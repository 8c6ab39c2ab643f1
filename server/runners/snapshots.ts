// What a runner says of snapshots: bringing one out of its sandbox, and one back into it.
import { create } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Kysely } from "kysely";
import { GetSnapshotResponseSchema, type PutSnapshotRequest, type RunnerService } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Database } from "../db/database.ts";
import { refusal } from "../errors.ts";
import { newId } from "../ids.ts";
import type { Change, Journal } from "../journal/journal.ts";
import { findSession, type SessionRow } from "../journal/store.ts";
import { failRestore, finishRestore, keepAwake, nextGeneration, putAway } from "./hibernation.ts";
import { type Lease, requireLease, underLease } from "./leases.ts";
import { deleteSnapshotsBefore, findSnapshot, insertSnapshot } from "./store.ts";

/** Where an archive belongs: it opens nowhere else. */
export type ArchivePlace = { ownerId: string; sessionId: string; generation: number; archive: string };

/** Sealed archives. */
export type Archives = {
  /** Seals and keeps a stream, and reads it back before it answers. Nothing is kept when it throws. */
  put(place: ArchivePlace, source: AsyncIterable<Uint8Array>): Promise<{ bytes: number; digest: Uint8Array }>;
  /** What was put, verified piece by piece. Throws for one that is gone or was altered. */
  get(place: ArchivePlace): AsyncIterable<Uint8Array>;
  /** Safe to repeat. */
  remove(archive: string): Promise<void>;
};

export type SnapshotCallsDeps = {
  db: Kysely<Database>;
  journal: Journal;
  archives: Archives;
  /** The most that one may take, packed. */
  maxBytes: number;
  /** Told of every session that has just become dormant. */
  poke(sessionId: string): void;
  onError(error: Error, about: string): void;
};

export type SnapshotCalls = Pick<ServiceImpl<typeof RunnerService>, "putSnapshot" | "abandonSnapshot" | "getSnapshot" | "reportRestore">;

export function createSnapshotCalls(deps: SnapshotCallsDeps): SnapshotCalls {
  return {
    async putSnapshot(requests, context) {
      const pieces = requests[Symbol.asyncIterator]();
      const first = await pieces.next();
      if (first.done) throw refusal(ErrorReason.INVALID_ARGUMENT, "a snapshot has at least one piece");
      const lease = requireLease(context, first.value);
      const { generation } = first.value;
      const session = await findSession(deps.db, lease.sessionId);
      if (!session || !isAskedFor(session, generation)) return { committed: false };
      const place = { ownerId: session.owner_id, sessionId: session.id, generation, archive: `${session.id}/${newId("arc")}` };
      const stored = await deps.archives.put(place, piecesOf(first.value, pieces, deps.maxBytes));
      return commit(deps, lease, place, stored);
    },
    async abandonSnapshot(request, context) {
      const lease = requireLease(context, request);
      await deps.journal.change(lease.sessionId, underLease(lease), async (change) => {
        if (isAskedFor(change.session, request.generation)) await keepAwake(change, request.reason);
      });
      return {};
    },
    async *getSnapshot(request, context) {
      const lease = requireLease(context, request);
      const session = await findSession(deps.db, lease.sessionId);
      const snapshot = await findSnapshot(deps.db, lease.sessionId, request.generation);
      if (!session || !snapshot) throw refusal(ErrorReason.NOT_FOUND, "there is no such snapshot");
      const { owner_id: ownerId, id: sessionId } = session;
      const { generation, archive } = snapshot;
      for await (const data of deps.archives.get({ ownerId, sessionId, generation, archive })) {
        yield create(GetSnapshotResponseSchema, { data });
      }
      yield create(GetSnapshotResponseSchema, { last: true });
    },
    async reportRestore(request, context) {
      const lease = requireLease(context, request);
      await deps.journal.change(lease.sessionId, underLease(lease), async (change) => {
        if (!change.session.restoring) return;
        if (request.failure) failRestore(change, request.failure);
        else await finishRestore(change);
      });
      deps.poke(lease.sessionId);
      return {};
    },
  };
}

function isAskedFor(session: SessionRow, generation: number): boolean {
  return session.state === "hibernating" && nextGeneration(session) === generation;
}

/** The pointer moves only here, under the lease and only while the snapshot is still asked for. */
async function commit(
  deps: SnapshotCallsDeps,
  lease: Lease,
  place: ArchivePlace,
  stored: { bytes: number; digest: Uint8Array },
): Promise<{ committed: boolean }> {
  const { generation, archive } = place;
  const outcome = await deps.journal
    .change(lease.sessionId, underLease(lease), async (change) => {
      if (!isAskedFor(change.session, generation) || change.session.desired !== "hibernate") return undefined;
      await point(change, place, stored);
      putAway(change);
      return deleteSnapshotsBefore(change.tx, lease.sessionId, generation);
    })
    .catch(async (error: unknown) => {
      // Whether the commit took place may be unknown: what the row names is never removed, only swept when nothing names it.
      const kept = await findSnapshot(deps.db, lease.sessionId, generation);
      if (kept?.archive !== archive) await deps.archives.remove(archive);
      throw error;
    });
  for (const old of outcome ?? [archive]) {
    await deps.archives.remove(old).catch((error: Error) => deps.onError(error, "an archive that nothing names was not removed"));
  }
  if (outcome) deps.poke(lease.sessionId);
  return { committed: outcome !== undefined };
}

async function point(change: Change, { generation, archive }: ArchivePlace, stored: { bytes: number; digest: Uint8Array }): Promise<void> {
  const { session, now } = change;
  await insertSnapshot(change.tx, {
    session_id: session.id,
    generation,
    epoch: session.epoch,
    archive,
    seq: session.last_seq,
    conversation: session.sdk_session_id ?? "",
    bytes: stored.bytes,
    digest: Buffer.from(stored.digest),
  });
  change.set({ snapshot_generation: generation, snapshot_at: now });
}

/** The bytes of a whole stream; throws for one that was cut and for one over the limit. */
async function* piecesOf(first: PutSnapshotRequest, rest: AsyncIterator<PutSnapshotRequest>, maxBytes: number): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for (let piece = first; ; ) {
    bytes += piece.data.length;
    if (bytes > maxBytes) throw refusal(ErrorReason.TOO_LARGE, `a snapshot may have ${maxBytes} bytes`, { limit: String(maxBytes) });
    if (piece.data.length > 0) yield piece.data;
    if (piece.last) return;
    const next = await rest.next();
    if (next.done) throw refusal(ErrorReason.INVALID_ARGUMENT, "the snapshot was cut");
    piece = next.value;
  }
}
