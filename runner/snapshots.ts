import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Client, ConnectError } from "@connectrpc/connect";
import type { PutSnapshotRequestSchema, RunnerService } from "../gen/carrel/runner/v1/runner_service_pb.ts";
import { ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.ts";
import type { ArchiveSource } from "./archive.ts";
import type { FetchSnapshot } from "./fetch-snapshot.ts";
import type { Lease } from "./lease.ts";

/**
 * Which snapshot is asked for, which one it may be an increment to (0 for none), and the command that asks for it: after a
 * later one it would be old.
 */
export type AskedSnapshot = { generation: number; baseGeneration: number; commandId: number };

/** The channel's calls that carry a session's files and conversation. */
export type SnapshotCalls = {
  /** Sends what `pack` makes, from the start again when the control plane was away. False when the session is wanted awake meanwhile. */
  put(made: AskedSnapshot, pack: () => AsyncGenerator<Uint8Array>, signal: AbortSignal): Promise<boolean>;
  abandon(generation: number, reason: string): Promise<void>;
  /** Gives what was put to `unpack`, each fetched as often as it is asked for; all from the start again when the control plane was away. */
  get<T>(generations: readonly number[], unpack: (archives: ArchiveSource[]) => Promise<T>): Promise<T>;
  /** @param failure empty when everything is back. */
  reportRestore(failure: string): Promise<void>;
};

const pieceBytes = 512 * 1024;
const mostSaid = 2_000;

export function createSnapshotCalls(
  client: Client<typeof RunnerService>,
  fetch: FetchSnapshot,
  lease: Lease,
  persistently: <T>(call: () => Promise<T>) => Promise<T>,
  soon: { timeoutMs: number },
): SnapshotCalls {
  return {
    async put(made, pack, signal) {
      const outcome = await persistently(async () => {
        const source = watched(pack());
        try {
          return signal.aborted || (await client.putSnapshot(requests({ ...lease, ...made }, source.pieces), { signal })).committed;
        } catch (error) {
          if (source.failure) return source.failure;
          if (isRefusal(error)) return error as Error;
          throw error;
        } finally {
          // Until it has put everything back, nobody may pack again.
          await source.pieces.return(undefined);
        }
      });
      if (outcome instanceof Error) throw outcome;
      return outcome && !signal.aborted;
    },
    async abandon(generation, reason) {
      await persistently(() => client.abandonSnapshot({ ...lease, generation, reason: reason.slice(0, mostSaid) }, soon));
    },
    async get(generations, unpack) {
      const outcome = await persistently(async () => {
        const sources: { failure: Error | undefined }[] = [];
        const sourceOf = (generation: number) => (): AsyncIterable<Uint8Array> => {
          const source = watched(fetch(generation));
          sources.push(source);
          return source.pieces;
        };
        try {
          return { unpacked: await unpack(generations.map(sourceOf)) };
        } catch (error) {
          // Only what comes over the channel may come better the next time.
          for (const { failure } of sources) if (failure) throw failure;
          return { error };
        }
      });
      if ("error" in outcome) throw outcome.error;
      return outcome.unpacked;
    },
    async reportRestore(failure) {
      await persistently(() => client.reportRestore({ ...lease, failure: failure.slice(0, mostSaid) }, soon));
    },
  };
}

/** What the control plane has decided is not asked again. Away, or fenced, it has decided nothing about the snapshot. */
function isRefusal(error: unknown): boolean {
  const reason = ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason;
  return reason !== undefined && !undecided.has(reason);
}

const undecided: ReadonlySet<string> = new Set(["UNAVAILABLE", "SHUTTING_DOWN", "DEADLINE_EXCEEDED", "FENCED"]);

async function* requests(
  head: Lease & AskedSnapshot,
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<MessageInitShape<typeof PutSnapshotRequestSchema>> {
  for await (const bytes of source) {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield { ...head, data: bytes.subarray(at, at + pieceBytes) };
  }
  yield { ...head, last: true };
}

/** The same pieces, and whether it was they that failed: not whoever reads them, which is thrown in here, too. */
function watched(pieces: AsyncGenerator<Uint8Array>): { pieces: AsyncGenerator<Uint8Array>; failure: Error | undefined } {
  const source = { pieces: follow(), failure: undefined as Error | undefined };
  const next = () =>
    pieces.next().catch((error: unknown) => {
      source.failure = error instanceof Error ? error : new Error(String(error));
      throw error;
    });
  async function* follow(): AsyncGenerator<Uint8Array> {
    try {
      for (let piece = await next(); !piece.done; piece = await next()) yield piece.value;
    } finally {
      await pieces.return(undefined);
    }
  }
  return source;
}
