// What a runner says of snapshots: bringing one out of its sandbox, and that one is back in it.
import type { ServiceImpl } from "@connectrpc/connect";
import type { Kysely } from "kysely";
import type { PutSnapshotRequest, RunnerService } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { BlobDigest } from "../blobs/store.ts";
import type { Database } from "../db/database.ts";
import { refusal } from "../errors.ts";
import { newId } from "../ids.ts";
import type { Change, Journal } from "../journal/journal.ts";
import { isOccupied, unparked } from "../journal/rules.ts";
import { findSession } from "../journal/store.ts";
import { wake } from "../journal/turns.ts";
import { type ArchivePlace, type Archives, discardUnnamed } from "../snapshots/archives.ts";
import { deleteSnapshotsBefore, insertSnapshot } from "../snapshots/store.ts";
import { baseOfNext, failRestore, finishRestore, keepAwake, putAway } from "./hibernation.ts";
import { holding, type Lease, requireLease, underLease } from "./leases.ts";
import { isAskedFor, isLastAsked } from "./rules.ts";

export type SnapshotCallsDeps = {
  db: Kysely<Database>;
  journal: Journal;
  archives: Archives;
  /** The most that one may take, packed. */
  maxBytes: number;
  /** How many of a session are kept: it can be forked at each. */
  kept: number;
  maxSessionMs: number;
  /** Told of every session that has just become dormant. */
  poke(sessionId: string): void;
  onError(error: Error, about: string): void;
};

export type SnapshotCalls = Pick<ServiceImpl<typeof RunnerService>, "putSnapshot" | "abandonSnapshot" | "reportRestore">;

export function createSnapshotCalls(deps: SnapshotCallsDeps): SnapshotCalls {
  const latest = createLatest();
  return {
    async putSnapshot(requests, context) {
      const pieces = requests[Symbol.asyncIterator]();
      const first = await pieces.next();
      if (first.done) throw refusal(ErrorReason.INVALID_ARGUMENT, "a snapshot has at least one piece");
      const lease = requireLease(context, first.value);
      const { generation, commandId, baseGeneration } = first.value;
      // Also because a runner of the past must not get in the way of the one that was asked.
      const session = holding(lease, await findSession(deps.db, lease.sessionId));
      if (!isAskedFor(session, generation)) return { committed: false };
      // While this generation is the next one the chain before it stays what it is; the commit looks at that again.
      if (baseGeneration > 0 && baseGeneration !== (await baseOfNext(deps.db, session)))
        throw refusal(ErrorReason.INVALID_ARGUMENT, `it cannot be an increment to snapshot ${baseGeneration}`);
      const place = { ownerId: session.owner_id, sessionId: session.id, generation, archive: `${session.id}/${newId("arc")}` };
      using turn = latest.take(session.id);
      const stored = await deps.archives.put(place, piecesOf(first.value, pieces, deps.maxBytes, turn.isOver));
      return await commit(deps, lease, { place, commandId, baseGeneration, stored });
    },
    async abandonSnapshot(request, context) {
      const lease = requireLease(context, request);
      await deps.journal.change(lease.sessionId, underLease(lease), async (change) => {
        if (isAskedFor(change.session, request.generation) && change.session.state === "hibernating")
          await keepAwake(change, request.reason);
      });
      return {};
    },
    async reportRestore(request, context) {
      const lease = requireLease(context, request);
      await deps.journal.change(lease.sessionId, underLease(lease), async (change) => {
        if (!change.session.restoring) return;
        if (request.failure) await failRestore(change, request.failure);
        else await finishRestore(change, deps.maxSessionMs);
      });
      deps.poke(lease.sessionId);
      return {};
    },
  };
}

/** @field baseGeneration 0 for an archive that holds everything. */
type Made = { place: ArchivePlace; commandId: number; baseGeneration: number; stored: BlobDigest };

/** The pointer moves only here, under the lease and only while the snapshot is still asked for. */
async function commit(deps: SnapshotCallsDeps, lease: Lease, made: Made): Promise<{ committed: boolean }> {
  const { generation, archive } = made.place;
  try {
    const replaced = await deps.journal.change(lease.sessionId, underLease(lease), async (change) => {
      // Something of the agent's may have asked for a person after it was told to rest.
      if (change.session.state === "hibernating" && isOccupied(change.session)) await wake(change);
      if (!isAskedFor(change.session, generation) || !isLastAsked(change.session, made.commandId)) return undefined;
      await point(change, made);
      change.set({ ...unparked(change.session) });
      if (change.session.state === "hibernating") await putAway(change);
      return deleteSnapshotsBefore(change.tx, lease.sessionId, generation - deps.kept + 1);
    });
    for (const old of replaced ?? [])
      await deps.archives.remove(old).catch((error: Error) => deps.onError(error, "an old archive was not removed"));
    if (replaced) deps.poke(lease.sessionId);
    return { committed: replaced !== undefined };
  } finally {
    await discardUnnamed(deps, archive).catch((error: Error) => deps.onError(error, "an archive that nothing names was not removed"));
  }
}

async function point(change: Change, { place: { generation, archive }, baseGeneration, stored }: Made): Promise<void> {
  const { session, now } = change;
  await insertSnapshot(change.tx, {
    session_id: session.id,
    generation,
    base_generation: baseGeneration || null,
    epoch: session.epoch,
    archive,
    seq: session.last_seq,
    conversation: session.sdk_session_id ?? "",
    bytes: stored.bytes,
    digest: Buffer.from(stored.sha256, "hex"),
  });
  change.set({ snapshot_generation: generation, snapshot_at: now });
}

/** The bytes of a whole stream; throws for one that was cut and for one over the limit. */
async function* piecesOf(
  first: PutSnapshotRequest,
  rest: AsyncIterator<PutSnapshotRequest>,
  maxBytes: number,
  isOver: () => boolean,
): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for (let piece = first; ; ) {
    if (isOver()) throw refusal(ErrorReason.INVALID_ARGUMENT, "a later snapshot of this session is on its way");
    bytes += piece.data.length;
    if (bytes > maxBytes) throw refusal(ErrorReason.TOO_LARGE, `a snapshot may have ${maxBytes} bytes`, { limit: String(maxBytes) });
    if (piece.data.length > 0) yield piece.data;
    if (piece.last) return;
    const next = await rest.next();
    if (next.done) throw refusal(ErrorReason.INVALID_ARGUMENT, "the snapshot was cut");
    piece = next.value;
  }
}

/** One at a time for each session: who begins another gives the one before up. */
function createLatest() {
  const newest = new Map<string, symbol>();
  return {
    take(sessionId: string) {
      const mine = Symbol(sessionId);
      newest.set(sessionId, mine);
      return {
        isOver: () => newest.get(sessionId) !== mine,
        [Symbol.dispose]() {
          if (newest.get(sessionId) === mine) newest.delete(sessionId);
        },
      };
    },
  };
}
