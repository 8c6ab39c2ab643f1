// What clients do and are told is written down here, try by try.
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import type { Call, Evidence, Look, ReaderView } from "../history/evidence.ts";

/** What a careful client does with a call: repeats it until it is answered or refused for good. */
export type Recorder = {
  calls: Call[];
  looks: Look[];
  readers: ReaderView[];
  forks: Evidence["forks"][number][];
  /** Tries that ended in an error of the server that has no excuse. */
  internal: string[];
  /** The answer; undefined when it was refused. Rejects when nobody answers for `patienceMs`. */
  careful<T>(call: Asked, make: () => Promise<T>, read?: (answer: T) => { seq?: number; made?: string }): Promise<T | undefined>;
};

export type Asked = Pick<Call, "method" | "sessionId" | "requestId" | "content">;

/** What no repetition changes. */
const final: ReadonlySet<Code> = new Set([
  Code.NotFound,
  Code.Unauthenticated,
  Code.PermissionDenied,
  Code.InvalidArgument,
  Code.FailedPrecondition,
  Code.AlreadyExists,
  Code.Unimplemented,
  Code.OutOfRange,
  Code.ResourceExhausted,
  Code.Aborted,
]);

/** One more than a session may need to come to rest. */
const patienceMs = 90_000;

export function createRecorder(): Recorder {
  const recorder: Recorder = {
    calls: [],
    looks: [],
    readers: [],
    forks: [],
    internal: [],
    async careful(call, make, read = () => ({})) {
      const giveUpAt = performance.now() + patienceMs;
      for (;;) {
        const entry: Call = { ...call, outcome: "unknown" };
        recorder.calls.push(entry);
        try {
          const answer = await withDeadline(make());
          Object.assign(entry, { outcome: "acknowledged" as const }, read(answer));
          return answer;
        } catch (error) {
          const refusal = ConnectError.from(error);
          const reason = refusal.findDetails(ErrorInfoSchema)[0]?.reason;
          // A broken connection says such things too; with a reason it is the server that does.
          if (reason === "INTERNAL") recorder.internal.push(`${call.method}: ${refusal.rawMessage}`);
          if (reason !== undefined && final.has(refusal.code)) {
            Object.assign(entry, { outcome: "failed" as const, reason });
            return undefined;
          }
          if (performance.now() > giveUpAt) throw new Error(`${call.method} of ${call.sessionId} was never answered`, { cause: error });
        }
        await sleep(50);
      }
    },
  };
  return recorder;
}

/** A half-open connection answers nothing; people do not wait for it for ever. */
const answerMs = 8_000;

async function withDeadline<T>(answer: Promise<T>): Promise<T> {
  const timer = new AbortController();
  const late = sleep(answerMs, undefined, { signal: timer.signal }).then(
    () => Promise.reject(new ConnectError("no answer", Code.DeadlineExceeded)),
    () => new Promise<never>(() => undefined),
  );
  return Promise.race([answer, late]).finally(() => timer.abort());
}
