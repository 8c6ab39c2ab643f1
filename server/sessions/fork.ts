// Going on from where another session was put away: its conversation and files, under the caller's own profile.
import { create } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import {
  CreateSessionRequestSchema,
  type ForkSessionRequest,
  ForkSessionRequestSchema,
  type ForkSessionResponse,
  ForkSessionResponseSchema,
  type PreflightForkRequest,
  type PreflightForkResponse,
  PreflightForkResponseSchema,
} from "../../gen/carrel/v1/session_service_pb.ts";
import type { BlobDigest } from "../blobs/store.ts";
import { notFound, refusal } from "../errors.ts";
import { newId } from "../ids.ts";
import type { Change } from "../journal/journal.ts";
import { openSettings } from "../journal/pinned.ts";
import { viewOf } from "../journal/session-view.ts";
import { findOwnedSession, type SessionRow } from "../journal/store.ts";
import { acceptPrompt } from "../journal/turns.ts";
import { type ArchivePlace, type Archives, discardUnnamed } from "../snapshots/archives.ts";
import { chainOf, forkPoints } from "../snapshots/rules.ts";
import { digestOf, insertSnapshot, listSnapshots, type SnapshotRow } from "../snapshots/store.ts";
import { admit, type CreateDeps, type Effective, newSession } from "./create.ts";
import { sessionMessage } from "./message.ts";
import { isRepeated, once } from "./request-ids.ts";
import { insertSession, lockOwner } from "./store.ts";

export type ForkDeps = CreateDeps & {
  archives: Archives;
  /** Told when an archive that nothing names stays for a while. */
  onStranded(error: Error): void;
};

const dayMs = 86_400_000;

export async function preflightFork(deps: ForkDeps, request: PreflightForkRequest, ownerId: string): Promise<PreflightForkResponse> {
  const source = await ownedSource(deps, ownerId, request.sessionId);
  const snapshots = await listSnapshots(deps.db, source.id);
  const { settings } = await profileOf(deps, ownerId, request.profileId);
  const problem = problemOf(source, snapshots);
  const servers = await serversOf(deps, source);
  return create(PreflightForkResponseSchema, {
    sourceSessionId: source.id,
    sourceSessionType: "user",
    sourceStatus: viewOf(source).status,
    sourceName: source.name,
    sourceLifetimeDays: Math.floor((Date.now() - source.created_at.getTime()) / dayMs),
    defaultForkName: forkName(source),
    sourceMcpServers: servers,
    missingMcps: missing(servers, settings.mcpServers),
    isForkable: !problem,
    isForkableReason: problem?.message ?? "",
    historyAvailable: snapshots.length > 0,
    forkableSeqs: forkPoints(snapshots).map(({ seq }) => seq),
  });
}

/** @param signal stops the copying when nobody waits for it any more. */
export async function forkSession(
  deps: ForkDeps,
  request: ForkSessionRequest,
  ownerId: string,
  signal: AbortSignal,
): Promise<ForkSessionResponse> {
  const source = await ownedSource(deps, ownerId, request.sessionId);
  const snapshots = await listSnapshots(deps.db, source.id);
  const problem = problemOf(source, snapshots);
  if (problem) throw problem;
  const snapshot = pointOf(snapshots, request.forkAtSeq);
  const effective = await profileOf(deps, ownerId, request.profileId);
  refuseMissing(missing(await serversOf(deps, source), effective.settings.mcpServers), request.acknowledgeMissingTools);
  return make(deps, request, ownerId, { source, chain: chainOf(snapshots, snapshot.generation), effective }, signal);
}

/** Where one member of the chain goes to. */
type Copy = { from: SnapshotRow; place: ArchivePlace };
type Origin = { source: SessionRow; chain: readonly SnapshotRow[]; effective: Effective };

/** The archives are copied first, outside the transaction; those that no row names in the end are removed again. */
async function make(
  deps: ForkDeps,
  request: ForkSessionRequest,
  ownerId: string,
  origin: Origin,
  signal: AbortSignal,
): Promise<ForkSessionResponse> {
  const { source, chain, effective } = origin;
  const vault = await deps.userVault(ownerId);
  const name = request.name || forkName(source);
  const row = newSession({ name, initialPrompt: request.initialPrompt }, effective, ownerId, vault, deps.host);
  const copies = chain.map((from, index): Copy => {
    return { from, place: { ownerId, sessionId: row.id, generation: index + 1, archive: `${row.id}/${newId("arc")}` } };
  });
  const method = "ForkSession";
  // A copy is dear: it is made for nobody who would be refused anyway, and not for a call that has its answer.
  const repeated = await isRepeated(deps.db, { ownerId, method, requestId: request.requestId });
  if (!repeated) await deps.db.transaction().execute((tx) => admit(deps, tx, ownerId, ErrorReason.FORK_LIMIT));
  let published = () => {};
  try {
    const stored = repeated ? undefined : await copyAll(deps.archives, source, copies, signal);
    const answer = await deps.db.transaction().execute((tx) => {
      const call = {
        ownerId,
        method,
        requestId: request.requestId,
        vault,
        request: { schema: ForkSessionRequestSchema, message: request },
        response: ForkSessionResponseSchema,
      };
      return once(tx, call, async () => {
        if (!stored) throw refusal(ErrorReason.UNAVAILABLE, "the first of these calls came to nothing meanwhile: try again");
        await lockOwner(tx, ownerId);
        await admit(deps, tx, ownerId, ErrorReason.FORK_LIMIT);
        await deps.limitCreate(tx, ownerId);
        const inserted = await insertSession(tx, row);
        const made = await deps.journal.changeWithin(tx, inserted, (change) => begin(change, request, origin, stored));
        published = made.published;
        return create(ForkSessionResponseSchema, { session: sessionMessage({ ...inserted, ...made.value }, vault, deps.place) });
      });
    });
    published();
    deps.poke(answer.session!.id);
    return answer;
  } finally {
    for (const { place } of copies) await discardUnnamed(deps, place.archive).catch(deps.onStranded);
  }
}

/** A fork starts as if it had been put away itself where its source was. */
async function begin(change: Change, request: ForkSessionRequest, { source, chain }: Origin, stored: readonly Stored[]) {
  const snapshot = chain.at(-1)!;
  change.set({
    restoring: true,
    snapshot_generation: stored.length,
    snapshot_at: snapshot.created_at,
    sdk_session_id: snapshot.conversation || null,
    forked_from: source.id,
    forked_at_seq: snapshot.seq,
  });
  for (const { from, place, digest } of stored) {
    await insertSnapshot(change.tx, {
      ...from,
      session_id: change.session.id,
      generation: place.generation,
      base_generation: place.generation - 1 || null,
      epoch: 0,
      archive: place.archive,
      bytes: digest.bytes,
      digest: Buffer.from(digest.sha256, "hex"),
      seq: 0,
    });
  }
  const details = { forked_from_session_id: source.id, forked_at_seq: snapshot.seq };
  change.append({ case: "system", value: { subtype: "forked", message: `goes on from ${source.name || source.id}`, details } });
  if (request.initialPrompt) await acceptPrompt(change, request.initialPrompt, "");
  return change.session;
}

type Stored = Copy & { digest: BlobDigest };

/** Sealed anew, each for its new place. */
async function copyAll(archives: Archives, source: SessionRow, copies: readonly Copy[], signal: AbortSignal): Promise<Stored[]> {
  const stored: Stored[] = [];
  for (const { from, place } of copies) {
    const { generation, archive } = from;
    const content = archives.get({ ownerId: source.owner_id, sessionId: source.id, generation, archive }, digestOf(from));
    stored.push({ from, place, digest: await archives.put(place, whileWanted(content, signal)) });
  }
  return stored;
}

async function* whileWanted<T>(content: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T> {
  for await (const piece of content) {
    signal.throwIfAborted();
    yield piece;
  }
}

async function ownedSource(deps: ForkDeps, ownerId: string, sessionId: string): Promise<SessionRow> {
  const source = await findOwnedSession(deps.db, ownerId, sessionId);
  if (!source) throw notFound("session");
  return source;
}

function problemOf(source: SessionRow, snapshots: readonly SnapshotRow[]): ConnectError | undefined {
  if (source.state !== "dormant" && source.state !== "ended")
    return refusal(ErrorReason.NOT_FORKABLE, "only a dormant or ended session can be forked: hibernate it first", { state: source.state });
  if (snapshots.length === 0) return refusal(ErrorReason.SNAPSHOT_GONE, "nothing is kept of this session's files and conversation");
  return undefined;
}

function pointOf(snapshots: readonly SnapshotRow[], seq: number): SnapshotRow {
  const snapshot = seq === 0 ? snapshots.at(-1) : snapshots.findLast((one) => one.seq === seq);
  if (snapshot) return snapshot;
  const points = snapshots.map((one) => one.seq).join(", ");
  throw refusal(ErrorReason.SNAPSHOT_GONE, `nothing is kept of event ${seq}; the session can be forked at ${points}`, {
    forkable_seqs: points,
  });
}

function profileOf(deps: ForkDeps, ownerId: string, profileId: string): Promise<Effective> {
  return deps.effectiveSettings(ownerId, create(CreateSessionRequestSchema, { profileId }));
}

async function serversOf(deps: ForkDeps, source: SessionRow): Promise<string[]> {
  return Object.keys(openSettings(await deps.userVault(source.owner_id), source).mcpServers).toSorted();
}

function missing(servers: readonly string[], has: Readonly<Record<string, unknown>>): string[] {
  return servers.filter((name) => !Object.hasOwn(has, name));
}

function refuseMissing(names: readonly string[], acknowledged: readonly string[]): void {
  const unknown = names.filter((name) => !acknowledged.includes(name));
  if (unknown.length === 0) return;
  const listed = unknown.join(", ");
  throw refusal(
    ErrorReason.MISSING_TOOL_SERVERS,
    `the profile has no ${listed}: name them in acknowledge_missing_tools, or fork with another profile`,
    { missing: listed },
  );
}

function forkName(source: SessionRow): string {
  return `Fork of ${source.name || source.id}`.slice(0, 200);
}
