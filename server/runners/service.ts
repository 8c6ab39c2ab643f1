import { create, fromBinary, type JsonObject } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Kysely } from "kysely";
import { CommandSchema } from "../../gen/carrel/runner/v1/command_pb.ts";
import { type AppendEventsRequest, type RunnerService, WatchCommandsResponseSchema } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Feeds } from "../journal/feed.ts";
import type { Change, Journal } from "../journal/journal.ts";
import { type AskedCall, askApproval, askQuestion, type DecisionInit, keepDenial, standingOf } from "../journal/pauses.ts";
import { openSettings } from "../journal/pinned.ts";
import { openBytes } from "../journal/seal.ts";
import { deleteCommands, listCommands, type SessionRow } from "../journal/store.ts";
import { startNextTurn } from "../journal/turns.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { Bells } from "./bells.ts";
import { fenced, type Lease, requireLease, socketBoxKey, underLease } from "./leases.ts";
import { mcpForRunner } from "./mcp-servers.ts";
import { createMemorySync, type SessionMemory } from "./memory.ts";
import { endsTurn, report } from "./report.ts";
import { questionOf } from "./rules.ts";
import { findByAttachHash, findCommandState } from "./store.ts";
import { newToken } from "./tokens.ts";

/** A verdict on one tool call: the permission engine's. */
export type Verdict = { behavior: "allow" } | { behavior: "deny"; message: string } | { behavior: "ask" };

export type RunnerServiceDeps = {
  db: Kysely<Database>;
  journal: Journal;
  feeds: Feeds;
  commandBells: Bells;
  hashToken(token: string): Uint8Array;
  userVault(userId: string): Promise<UserVault>;
  /** Waits until a sandbox that stands by is given to a session; false for every other token. */
  assigned(attachToken: string, signal: AbortSignal): Promise<boolean>;
  decide(session: SessionRow, toolName: string, input: JsonObject): Verdict;
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
const questionTool = "AskUserQuestion";

/** The server's side of the sandbox channel. */
export function createRunnerService(deps: RunnerServiceDeps): ServiceImpl<typeof RunnerService> {
  const syncMemory = createMemorySync(deps.memory);
  return {
    async attach({ attachToken }, context) {
      await deps.assigned(attachToken, context.signal);
      return attach(deps, attachToken, context.values.get(socketBoxKey));
    },
    async *watchCommands(request, context) {
      const lease = requireLease(context, request);
      let cursor = request.afterCommandId;
      while (!context.signal.aborted) {
        const session = await findCommandState(deps.db, lease.sessionId);
        if (session?.epoch !== lease.epoch || session.state === "ended") throw fenced();
        const rung = deps.commandBells.wait(lease.sessionId, keepAliveMs, context.signal);
        const rows = session.last_command_id > cursor ? await listCommands(deps.db, lease.sessionId, cursor) : [];
        const vault = await deps.userVault(session.owner_id);
        for (const row of rows) {
          const command = fromBinary(CommandSchema, openBytes(vault, lease.sessionId, `command/${row.id}`, row.payload));
          yield create(WatchCommandsResponseSchema, { item: { case: "command", value: command } });
        }
        cursor = Math.max(cursor, rows.at(-1)?.id ?? 0);
        if (rows.length > 0) continue;
        await rung;
        yield create(WatchCommandsResponseSchema, { item: { case: "keepAlive", value: {} } });
      }
    },
    async appendEvents(request, context) {
      const lease = requireLease(context, request);
      // A turn is billed before it ends.
      if (endsTurn(request)) await deps.settled(lease.sessionId);
      return deps.journal.change(lease.sessionId, underLease(lease), (change) => append(deps, change, request));
    },
    async pushDeltas(requests, context) {
      for await (const request of requests) deps.feeds.pushDeltas(requireLease(context, request).sessionId, request.deltas);
      return {};
    },
    async decideTool(request, context) {
      const lease = requireLease(context, request);
      const decision = await deps.journal.change(lease.sessionId, underLease(lease), (change) =>
        decideTool(deps, change, {
          toolUseId: request.toolUseId,
          toolName: request.toolName,
          input: request.input ?? {},
          parentToolUseId: request.parentToolUseId,
        }),
      );
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
      if (!session?.attach_hash?.equals(hash) || session.state !== "starting" || session.desired === "end") throw fenced();
      if (socketBox !== undefined && socketBox !== session.box) throw fenced();
      return session;
    },
    async (change) => {
      change.set({
        attach_hash: null,
        lease_hash: Buffer.from(deps.hashToken(leaseToken)),
        lease_until: leaseEnd(change, deps.staleMs),
        state: "running",
        state_since: change.now,
        started_at: change.session.started_at ?? change.now,
        ends_at: lifetimeEnd(change, deps.maxSessionMs),
        last_runner_seq: 0,
      });
      await startNextTurn(change);
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
        },
      };
    },
  );
}

async function append(deps: RunnerServiceDeps, change: Change, request: AppendEventsRequest) {
  const { session } = change;
  await report(change, request);
  if (request.ackedCommandId > session.acked_command_id) {
    await deleteCommands(change.tx, session.id, request.ackedCommandId);
    change.set({ acked_command_id: request.ackedCommandId });
  }
  change.set({ lease_until: leaseEnd(change, deps.staleMs) });
  return { lastRunnerSeq: session.last_runner_seq, lastSeq: session.last_seq };
}

/** The decision on a call, or undefined when a person was asked: then it comes as a command. */
async function decideTool(deps: RunnerServiceDeps, change: Change, call: AskedCall): Promise<DecisionInit | undefined> {
  const question = call.toolName === questionTool ? questionOf(call.toolUseId, call.input) : undefined;
  const standing = await standingOf(change, call, question);
  if (standing === "open") return undefined;
  if (standing === "none") return { toolUseId: call.toolUseId, allow: false, message: "Nobody answered this call." };
  if (standing) return standing;
  const verdict = deps.decide(change.session, call.toolName, call.input);
  if (verdict.behavior === "deny") return deny(change, call, verdict.message);
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

/** The earlier of what the session has and what the platform allows from its first start. */
function lifetimeEnd({ session, now }: Change, maxSessionMs: number): Date {
  const platform = (session.started_at ?? now).getTime() + maxSessionMs;
  return new Date(Math.min(platform, session.ends_at?.getTime() ?? platform));
}

function leaseEnd(change: Change, staleMs: number): Date {
  return new Date(change.now.getTime() + staleMs);
}
