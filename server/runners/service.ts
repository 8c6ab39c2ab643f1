import { create, fromBinary, type JsonObject } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Kysely } from "kysely";
import { type Command, CommandSchema } from "../../gen/carrel/runner/v1/command_pb.ts";
import {
  type ReportEventsRequest,
  type RunnerService,
  type WatchCommandsResponse,
  WatchCommandsResponseSchema,
} from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Feeds } from "../journal/feed.ts";
import type { Change, Journal } from "../journal/journal.ts";
import { type AskedCall, askApproval, askQuestion, type DecisionInit, keepDenial, standingOf, takeCarried } from "../journal/pauses.ts";
import { openSettings } from "../journal/pinned.ts";
import { unparked } from "../journal/rules.ts";
import { openBytes } from "../journal/seal.ts";
import { agentReady, phaseEnded } from "../journal/start-phases.ts";
import { deleteCommands, listCommands, type SessionCore } from "../journal/store.ts";
import { startNextTurn } from "../journal/turns.ts";
import { listChain } from "../snapshots/store.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { CommandStreams } from "./command-streams.ts";
import { fenced, type Lease, requireLease, socketBoxKey, underLease } from "./leases.ts";
import { mcpForRunner } from "./mcp-servers.ts";
import { createMemorySync, type SessionMemory } from "./memory.ts";
import { endsTurn, report } from "./report.ts";
import { awaitsRunner, isOfPastTurn, questionOf } from "./rules.ts";
import type { SnapshotCalls } from "./snapshots.ts";
import { findByAttachHash, findCommandState } from "./store.ts";
import { newToken } from "./tokens.ts";
import { attached, isToBeRestored } from "./transitions.ts";

/** A verdict on one tool call: the permission engine's. */
export type Verdict = { behavior: "allow" } | { behavior: "deny"; message: string } | { behavior: "ask" };

export type RunnerServiceDeps = {
  db: Kysely<Database>;
  journal: Journal;
  feeds: Feeds;
  commandStreams: CommandStreams;
  hashToken(token: string): Uint8Array;
  userVault(userId: string): Promise<UserVault>;
  snapshots: SnapshotCalls;
  /** Waits until a sandbox that stands by is given to a session; false for every other token. */
  assigned(attachToken: string, signal: AbortSignal): Promise<boolean>;
  decide(session: SessionCore, toolName: string, input: JsonObject): Verdict;
  memory: SessionMemory;
  /** The runner left by itself. */
  onDetached(lease: Lease, exit: { reason: string; exitCode: number }): Promise<void>;
  /** Resolves when every model request of the session that has been answered is booked, or after a while. */
  settled(sessionId: string): Promise<void>;
  staleMs: number;
  /** The platform's maximum of running time. */
  maxSessionMs: number;
  heartbeatMs: number;
};

const keepAliveMs = 10_000;
/** Deltas change nothing, so the table is asked for their lease only this often. */
const deltaLookMs = 1_000;
const questionTool = "AskUserQuestion";

/** The server's side of the sandbox channel. */
export function createRunnerService(deps: RunnerServiceDeps): ServiceImpl<typeof RunnerService> {
  const syncMemory = createMemorySync(deps.memory);
  return {
    async attach({ attachToken }, context) {
      await deps.assigned(attachToken, context.signal);
      return attach(deps, attachToken, context.values.get(socketBoxKey));
    },
    watchCommands: (request, context) => follow(deps, requireLease(context, request), request.afterCommandId, context.signal),
    async *reportEvents(requests, context) {
      for await (const request of requests) yield await appendUnder(deps, requireLease(context, request), request);
    },
    async pushDeltas(requests, context) {
      let lookedAt = Number.NEGATIVE_INFINITY;
      for await (const request of requests) {
        const lease = requireLease(context, request);
        if (performance.now() - lookedAt >= deltaLookMs) {
          await heldSession(deps, lease);
          lookedAt = performance.now();
        }
        deps.feeds.pushDeltas(lease.sessionId, request.deltas);
      }
      return {};
    },
    async decideTool(request, context) {
      const lease = requireLease(context, request);
      const decision = await deps.journal.change(lease.sessionId, underLease(lease), (change) => {
        if (isOfPastTurn(change.session, request.turn))
          return { toolUseId: request.toolUseId, allow: false, message: "the turn of this call is over" };
        return decideTool(deps, change, {
          toolUseId: request.toolUseId,
          toolName: request.toolName,
          input: request.input ?? {},
          parentToolUseId: request.parentToolUseId,
        });
      });
      return decision ? { decision } : { pending: true };
    },
    syncMemory(request, context) {
      const lease = requireLease(context, request);
      return deps.journal.change(lease.sessionId, underLease(lease), (change) => syncMemory(change, request.changes));
    },
    async detach(request, context) {
      const lease = requireLease(context, request);
      await deps.onDetached(lease, { reason: request.reason, exitCode: request.exitCode });
      return {};
    },
    ...deps.snapshots,
  };
}

async function attach(deps: RunnerServiceDeps, attachToken: string, socketBox: string | undefined) {
  const hash = deps.hashToken(attachToken);
  const found = await findByAttachHash(deps.db, hash);
  if (!found) throw fenced();
  const leaseToken = newToken("lease");
  return deps.journal.change(
    found.id,
    (session) => {
      if (!session?.attach_hash?.equals(hash) || !awaitsRunner(session)) throw fenced();
      if (socketBox !== undefined && socketBox !== session.box) throw fenced();
      return session;
    },
    async (change) => {
      change.set({
        ...attached(change.session, change.now, deps),
        ...unparked(change.session),
        start_marks: phaseEnded(change.session.start_marks, "runner", change.now),
        lease_hash: Buffer.from(deps.hashToken(leaseToken)),
      });
      const restore = await restoreOf(change);
      if (!restore) await startNextTurn(change);
      const { id, epoch, model, permission_mode } = change.session;
      const { environment, mcpServers } = openSettings(change.vault, change.session);
      return {
        leaseToken,
        sessionId: id,
        epoch,
        manifest: {
          model,
          heartbeatMs: deps.heartbeatMs,
          planMode: permission_mode === "plan",
          environment,
          mcpServers: mcpForRunner(mcpServers),
          egress: change.session.allowed_hosts.length > 0,
          memory: await deps.memory.read(change.tx, change.vault, change.session),
          ...(restore ? { restore } : {}),
        },
      };
    },
  );
}

/** The commands after `afterId`, and those to come, until the lease is over. */
async function* follow(deps: RunnerServiceDeps, lease: Lease, afterId: number, signal: AbortSignal): AsyncGenerator<WatchCommandsResponse> {
  const stream = deps.commandStreams.open(lease);
  let cursor = afterId;
  let behind = true;
  try {
    while (!signal.aborted) {
      const handed: readonly Command[] | undefined = behind ? undefined : stream.take(cursor);
      const commands: readonly Command[] = handed ?? (await readCommands(deps, lease, cursor));
      // The table is read in pages: only an empty one says that there is no more.
      behind = handed === undefined && commands.length > 0;
      for (const command of commands) {
        yield create(WatchCommandsResponseSchema, { item: { case: "command", value: command } });
        cursor = command.id;
      }
      if (commands.length > 0 || (await stream.wait(keepAliveMs, signal)) === "rung") continue;
      yield create(WatchCommandsResponseSchema, { item: { case: "keepAlive", value: {} } });
    }
  } finally {
    stream.close();
  }
}

async function readCommands(deps: RunnerServiceDeps, lease: Lease, cursor: number): Promise<Command[]> {
  const session = await heldSession(deps, lease);
  if (session.last_command_id <= cursor) return [];
  const rows = await listCommands(deps.db, lease.sessionId, cursor);
  const vault = await deps.userVault(session.owner_id);
  return rows.map(({ id, payload }) => fromBinary(CommandSchema, openBytes(vault, lease.sessionId, `command/${id}`, payload)));
}

/** Refuses when the lease is over. */
async function heldSession({ db }: RunnerServiceDeps, lease: Lease) {
  const session = await findCommandState(db, lease.sessionId);
  if (session?.epoch !== lease.epoch || session.state === "ended") throw fenced();
  return session;
}

async function appendUnder(deps: RunnerServiceDeps, lease: Lease, request: ReportEventsRequest) {
  // A turn is billed before it ends.
  if (endsTurn(request)) await deps.settled(lease.sessionId);
  return deps.journal.changeOptimistically(lease.sessionId, underLease(lease), (change) => append(deps, change, request));
}

async function append(deps: RunnerServiceDeps, change: Change, request: ReportEventsRequest) {
  const { session } = change;
  await report(change, request);
  if (request.ackedCommandId > session.acked_command_id) {
    await deleteCommands(change.tx, session.id, request.ackedCommandId);
    change.set({ acked_command_id: request.ackedCommandId });
  }
  // Whatever it was parked for, its runner is alive, and the server can write down what that says.
  change.set({ lease_until: leaseEnd(change, deps.staleMs), ...unparked(session) });
  if (request.agentReadyMs > 0) change.set({ start_marks: agentReady(session.start_marks, change.now, request.agentReadyMs) });
  return { lastRunnerSeq: session.last_runner_seq, lastSeq: session.last_seq };
}

/** The decision on a call, or undefined when a person was asked: then it comes as a command. */
async function decideTool(deps: RunnerServiceDeps, change: Change, call: AskedCall): Promise<DecisionInit | undefined> {
  const question = call.toolName === questionTool ? questionOf(call.toolUseId, call.input) : undefined;
  const standing = await standingOf(change, call, question);
  if (standing === "open") return undefined;
  if (standing !== "new") return standing;
  const verdict = deps.decide(change.session, call.toolName, call.input);
  if (verdict.behavior === "deny") return deny(change, call, verdict.message);
  const carried = await takeCarried(change, call, question);
  if (carried) return carried;
  // A question is for a person whatever the rules allow.
  if (question) await askQuestion(change, question);
  else if (verdict.behavior === "allow") return { toolUseId: call.toolUseId, allow: true };
  else await askApproval(change, call);
  return undefined;
}

async function deny(change: Change, call: AskedCall, message: string): Promise<DecisionInit> {
  const decision = { toolUseId: call.toolUseId, allow: false, message };
  const seq = change.append({
    case: "system",
    value: { subtype: "permission_denied", message, details: { tool_use_id: call.toolUseId, tool_name: call.toolName } },
  });
  await keepDenial(change, call, seq, decision);
  return decision;
}

/** What is to be brought back before the session runs; undefined when its files are there. */
async function restoreOf({ tx, session }: Change) {
  if (!isToBeRestored(session)) return undefined;
  const generation = session.snapshot_generation!;
  const chain = await listChain(tx, session.id, generation);
  return { generation, conversation: session.sdk_session_id ?? "", chain: chain.map((member) => member.generation) };
}

function leaseEnd(change: Change, staleMs: number): Date {
  return new Date(change.now.getTime() + staleMs);
}
