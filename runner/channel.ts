import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import type { Command } from "../gen/carrel/runner/v1/command_pb.ts";
import type { MemoryChange } from "../gen/carrel/runner/v1/memory_pb.ts";
import type { DecideToolRequest } from "../gen/carrel/runner/v1/runner_service_pb.ts";
import {
  type AttachResponse,
  type PushDeltasRequest,
  PushDeltasRequestSchema,
  RunnerService,
} from "../gen/carrel/runner/v1/runner_service_pb.ts";
import { EventPayloadSchema } from "../gen/carrel/v1/event_pb.ts";
import { ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.ts";
import { type BatchHead, createBatchCall } from "./batches.ts";
import { createSnapshotFetch } from "./fetch-snapshot.ts";
import type { Lease } from "./lease.ts";
import { encodeWithinLimit } from "./limit.ts";
import { createSnapshotCalls, type SnapshotCalls } from "./snapshots.ts";
import { openSpool, type Spool } from "./spool.ts";
import type { DeltaInit, PayloadKind } from "./translate.ts";

/** The one way out of the sandbox. Every call is repeated until the control plane answers; it may be restarting. */
export type Channel = {
  attached: AttachResponse;
  /** Adds events in order; they are committed soon after, batch by batch. */
  append(events: readonly PayloadKind[]): void;
  /** Resolves when everything appended so far is committed. */
  flushed(): Promise<void>;
  pushDelta(delta: DeltaInit): void;
  /** Says with the next batch that the agent is ready, and since when. */
  agentReady(): void;
  decide(
    call: Pick<DecideToolRequest, "toolUseId" | "toolName" | "turn" | "parentToolUseId"> & { input: DecideToolRequest["input"] },
  ): ReturnType<Client<typeof RunnerService>["decideTool"]>;
  /** Brings changes of the memory bank back; answers with those that were not taken. */
  syncMemory(changes: MemoryChange[]): ReturnType<Client<typeof RunnerService>["syncMemory"]>;
  /** Follows the commands until the channel ends; each is given to `onCommand` once and in order. */
  follow(onCommand: (command: Command) => void): Promise<void>;
  snapshots: SnapshotCalls;
  detach(reason: string, exitCode: number): Promise<void>;
};

/** The lease is gone: another runner acts for the session. This one must stop at once. */
export class Fenced extends Error {}

const batchEvents = 200;
const batchBytes = 256 * 1024;
/** What may wait for a control plane that is away. Past it the runner gives up rather than forget. */
const mostWaitingBytes = 64 * 1024 * 1024;

/**
 * How long the control plane may say nothing, milliseconds: a stream can end without anybody being told. `answerMs` where an
 * answer is waited for: longer than a commit ever takes. `quietMs` in the stream of commands, which has a keep-alive every 10 s.
 */
export type Deadlines = { answerMs: number; quietMs: number };

const usual: Deadlines = { answerMs: 20_000, quietMs: 30_000 };

export async function openChannel(
  socketPath: string,
  attachToken: string,
  spoolPath: string,
  { answerMs, quietMs }: Deadlines = usual,
): Promise<Channel> {
  const authorize: Interceptor = (next) => (request) => {
    if (leaseToken) request.header.set("authorization", `Bearer ${leaseToken}`);
    return next(request);
  };
  const clientOver = (httpVersion: "1.1" | "2") =>
    createClient(
      RunnerService,
      createConnectTransport({
        baseUrl: "http://carrel.internal",
        httpVersion,
        useBinaryFormat: true,
        // Never leaves the machine's memory; to compress it takes longer than to send it.
        acceptCompression: [],
        readMaxBytes: 16 * 1024 * 1024,
        nodeOptions: { createConnection: () => net.connect(socketPath) },
        interceptors: [authorize],
      }),
    );
  let leaseToken = "";
  const client = clientOver("2");
  // Without a deadline: a sandbox that stands by waits in this call. One that nobody answers is ended from outside.
  const attached = await persistently(() => client.attach({ attachToken }));
  const soon = { timeoutMs: answerMs };
  leaseToken = attached.leaseToken;
  const lease = { sessionId: attached.sessionId, epoch: attached.epoch };
  const attachedAt = performance.now();
  let handledCommand = 0;
  let agentReadyMs = 0;
  const spool = openSpool(spoolPath, attached.epoch, ({ message, cause }) => process.stderr.write(`runner: ${message}: ${cause}\n`));
  const log = createAppender(client, lease, spool, attached.manifest?.heartbeatMs ?? 10_000, () => ({
    ackedCommandId: handledCommand,
    agentReadyMs,
  }));
  const deltas = inOrder(log, createDeltaPipe(client, lease));

  return {
    attached,
    append: log.append,
    flushed: log.flushed,
    pushDelta: deltas.push,
    agentReady() {
      agentReadyMs ||= Math.max(1, Math.round(performance.now() - attachedAt));
    },
    decide: (call) => persistently(() => client.decideTool({ ...lease, ...call }, soon)),
    syncMemory: (changes) => persistently(() => client.syncMemory({ ...lease, changes }, soon)),
    async follow(onCommand) {
      for (;;) {
        await persistently(async () => {
          const silence = createSilence(quietMs);
          for await (const { item } of silence.ended(client.watchCommands({ ...lease, afterCommandId: handledCommand }, silence))) {
            if (item.case !== "command" || item.value.id <= handledCommand) continue;
            handledCommand = item.value.id;
            onCommand(item.value);
          }
        });
      }
    },
    // HTTP/2 would stop for a word from the other side after every 64 KB.
    snapshots: createSnapshotCalls(clientOver("1.1"), createSnapshotFetch(socketPath, leaseToken), lease, persistently, soon),
    async detach(reason, exitCode) {
      await log.flushed();
      await persistently(() => client.detach({ ...lease, reason: reason.slice(0, 2000), exitCode }, soon));
      log.stop();
    },
  };
}

function createAppender(
  client: Client<typeof RunnerService>,
  lease: Lease,
  spool: Spool,
  heartbeatMs: number,
  standing: () => Pick<BatchHead, "ackedCommandId" | "agentReadyMs">,
) {
  const waiting: Uint8Array[] = [];
  let waitingBytes = 0;
  let committed = 0;
  let sending: Promise<void> | undefined;
  let failure: unknown;
  let lastSent = performance.now();
  const sendBatch = createBatchCall(client);

  const send = async (): Promise<void> => {
    do {
      const events = nextBatch(waiting);
      const answer = await persistently(() => sendBatch({ ...lease, firstRunnerSeq: committed + 1, ...standing() }, events));
      const taken = waiting.splice(0, Math.max(0, answer.lastRunnerSeq - committed));
      for (const { length } of taken) waitingBytes -= length;
      spool.acknowledge(taken.length);
      committed = Math.max(committed, answer.lastRunnerSeq);
      lastSent = performance.now();
    } while (waiting.length > 0);
  };
  const pump = (): void => {
    sending ??= send().then(
      () => {
        sending = undefined;
      },
      (error: unknown) => {
        // Fencing ends the process; it is thrown where the process waits for it.
        failure = error;
        process.exit(fencedExit(error));
      },
    );
  };
  const timer = setInterval(() => {
    if (performance.now() - lastSent >= heartbeatMs - 50) pump();
  }, heartbeatMs / 2);

  return {
    append(kinds: readonly PayloadKind[]): void {
      const encoded = kinds.map((kind) => encodeWithinLimit(Date.now(), create(EventPayloadSchema, { kind })));
      for (const { length } of encoded) waitingBytes += length;
      waiting.push(...encoded);
      // Before they are sent: whatever happens to this process now, they are told once.
      spool.append(encoded);
      if (waitingBytes > mostWaitingBytes) throw new Error("the control plane has been away for too long: too many events wait");
      if (kinds.length > 0) pump();
    },
    isBusy: () => sending !== undefined,
    async flushed(): Promise<void> {
      while (sending) await sending;
      if (failure) throw failure;
    },
    stop: () => clearInterval(timer),
  };
}

function nextBatch(waiting: readonly Uint8Array[]): Uint8Array[] {
  let bytes = 0;
  const end = waiting.findIndex(({ length }, index) => (bytes += length) > batchBytes && index > 0);
  return waiting.slice(0, end < 0 ? batchEvents : Math.min(end, batchEvents));
}

/** 0 when fenced: the session goes on without this runner, and nothing is wrong. */
function fencedExit(error: unknown): number {
  process.stderr.write(`runner: ${error instanceof Error ? error.message : String(error)}\n`);
  return error instanceof Fenced ? 0 : 1;
}

/** Pieces of what the agent says next never overtake the events of what it said before. */
function inOrder(log: { isBusy(): boolean; flushed(): Promise<void> }, deltas: { push(delta: DeltaInit): void }) {
  let held: DeltaInit[] = [];
  return {
    push(delta: DeltaInit): void {
      if (held.length === 0 && !log.isBusy()) return deltas.push(delta);
      held.push(delta);
      if (held.length > 1) return;
      void log.flushed().then(() => {
        const released = held;
        held = [];
        for (const one of released) deltas.push(one);
      });
    },
  };
}

/** Deltas go out as they come, in one stream; while it is broken they are dropped, because their events will follow. */
function createDeltaPipe(client: Client<typeof RunnerService>, lease: Lease) {
  let waiting: DeltaInit[] = [];
  let wake = (): void => undefined;
  let open = false;

  async function* requests(): AsyncGenerator<PushDeltasRequest> {
    for (;;) {
      if (waiting.length === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      const deltas = waiting.splice(0, 500);
      yield create(PushDeltasRequestSchema, { ...lease, deltas });
    }
  }
  const run = async (): Promise<void> => {
    open = true;
    waiting = [];
    try {
      await client.pushDeltas(requests());
    } catch (error) {
      process.stderr.write(`runner: delta stream closed: ${ConnectError.from(error).message}\n`);
    }
    await sleep(500);
    open = false;
  };
  return {
    push(delta: DeltaInit): void {
      if (!open) void run();
      waiting.push(delta);
      wake();
    },
  };
}

/** Aborts a stream that says nothing for too long. */
function createSilence(quietMs: number) {
  const silence = new AbortController();
  return {
    signal: silence.signal,
    async *ended<T>(stream: AsyncIterable<T>): AsyncGenerator<T> {
      const timer = setTimeout(() => silence.abort(), quietMs);
      try {
        for await (const one of stream) {
          timer.refresh();
          yield one;
        }
      } finally {
        clearTimeout(timer);
      }
    },
  };
}

/** A control plane that is away for longer than this is not coming back to this sandbox. */
const patienceMs = 30 * 60_000;

/** Tries until it is answered. Only refusals that no repetition can change are thrown. */
async function persistently<T>(call: () => Promise<T>): Promise<T> {
  const giveUpAt = performance.now() + patienceMs;
  for (let pauseMs = 25; ; pauseMs = Math.min(pauseMs * 2, 1_000)) {
    try {
      return await call();
    } catch (error) {
      const refusal = ConnectError.from(error);
      if (reasonOf(refusal) === "FENCED") throw new Fenced("the lease is gone");
      if (!passing.has(refusal.code) || performance.now() > giveUpAt) throw error;
      await sleep(pauseMs * (0.5 + Math.random() / 2));
    }
  }
}

const passing: ReadonlySet<Code> = new Set([
  Code.Unavailable,
  Code.Canceled,
  Code.Aborted,
  Code.DeadlineExceeded,
  Code.Unknown,
  Code.Internal,
  Code.ResourceExhausted,
]);

function reasonOf(error: ConnectError): string | undefined {
  return error.findDetails(ErrorInfoSchema)[0]?.reason;
}
