import { type Client, Code, ConnectError } from "@connectrpc/connect";
import type { ChannelService, WatchEventsResponse } from "../gen/carrel/v1/channel_service_pb.ts";
import type { Delta, Event } from "../gen/carrel/v1/event_pb.ts";
import { SessionStatus } from "../gen/carrel/v1/session_pb.ts";
import type { SessionService } from "../gen/carrel/v1/session_service_pb.ts";
import { type Backoff, delayBefore, pause } from "./backoff.ts";
import { mayPass, retryAfterMsOf } from "./errors.ts";
import { isUnauthenticated, type Tokens } from "./tokens.ts";

/** One thing a watch yields. */
export type WatchItem =
  /** The next event of the log. */
  | { kind: "event"; event: Event }
  /** A piece of an event to come. Only with `includeDeltas`. */
  | { kind: "delta"; delta: Delta }
  /** Everything that was there at the call has been yielded. Once per watch, whatever happens to the connection. */
  | { kind: "synced"; lastSeq: number };

export type WatchOptions = Backoff & {
  /** The last event the caller has. Default 0: the whole log. */
  afterSeq?: number;
  /** Adds deltas. Default false. */
  includeDeltas?: boolean;
  /** Ends the watch, without an error. */
  signal?: AbortSignal;
  /** Called before each wait for another try. */
  onReconnecting?: (lost: Lost) => void;
  /** Called when the stream lives again after `onReconnecting`. */
  onReconnected?: () => void;
  /** A stream this long without anything, keep-alives included, is taken for dead. Default 30,000: three keep-alives. */
  silenceMs?: number;
  /** Throws the last error after this long without contact. Default: never. */
  giveUpAfterMs?: number;
};

export type Lost = { error: unknown; attempt: number; delayMs: number };

export type WatchDeps = { channel: Client<typeof ChannelService>; sessions: Client<typeof SessionService>; tokens: Tokens };

/** Tries in a row that bring no event although the server answers with nonsense: a hole in the log, half a stream. */
const fruitlessTries = 8;

type Progress = {
  cursor: number;
  synced: boolean;
  /** Failed tries since the last event or the last quiet, living stream. */
  attempt: number;
  /** Failures since the last event that a sound server does not show twice. */
  fruitless: number;
  /** When the server was heard last. */
  heardAt: number;
  /** `onReconnecting` was called and `onReconnected` not yet. */
  lost: boolean;
  /** A fresh token was asked for and has not proved itself yet. */
  refreshed: boolean;
};

/**
 * Yields every event after `afterSeq` exactly once and in order, through any number of lost connections. Ends after the
 * `session_end` event, when the log of an ended session is read out, or on abort; throws what another try cannot heal.
 */
export async function* watchEvents(deps: WatchDeps, sessionId: string, options: WatchOptions): AsyncGenerator<WatchItem, void, undefined> {
  const { signal } = options;
  const progress: Progress = {
    cursor: options.afterSeq ?? 0,
    synced: false,
    attempt: 0,
    fruitless: 0,
    heardAt: Date.now(),
    lost: false,
    refreshed: false,
  };
  while (!signal?.aborted) {
    let failure: unknown;
    try {
      for await (const item of oneStream(deps, sessionId, options, progress)) {
        yield item;
        if (item.kind === "event" && item.event.payload?.kind.case === "sessionEnd") return;
      }
      if (await isReadOut(deps, sessionId, progress.cursor, signal)) return;
      failure = new ConnectError("the server ended the stream of a session that goes on", Code.Unavailable);
    } catch (error) {
      failure = error;
    }
    if (signal?.aborted) return;
    await recover(failure, deps, options, progress);
  }
}

/** One connection: from the cursor until it breaks. Leaves nothing open, however its reader stops. */
async function* oneStream(deps: WatchDeps, sessionId: string, options: WatchOptions, progress: Progress): AsyncGenerator<WatchItem> {
  const cut = new AbortController();
  const signal = options.signal ? AbortSignal.any([cut.signal, options.signal]) : cut.signal;
  const request = { sessionId, afterSeq: progress.cursor, includeDeltas: options.includeDeltas ?? false };
  try {
    const responses = deps.channel.watchEvents(request, { signal, timeoutMs: 0 });
    for await (const response of notSilent(responses, options.silenceMs ?? 30_000, cut)) {
      heard(options, progress);
      const item = accept(response, progress);
      if (item) yield item;
    }
  } finally {
    cut.abort();
  }
}

/** What of a response the caller has not had yet. Throws on a hole, so that it is read again from the cursor. */
function accept({ item }: WatchEventsResponse, progress: Progress): WatchItem | undefined {
  switch (item.case) {
    case "event": {
      const { seq } = item.value;
      if (seq <= progress.cursor) return undefined;
      if (seq > progress.cursor + 1) throw hole(progress.cursor + 1, seq);
      progress.cursor = seq;
      trust(progress);
      progress.fruitless = 0;
      return { kind: "event", event: item.value };
    }
    case "delta":
      return { kind: "delta", delta: item.value };
    case "synced":
      if (progress.synced) return undefined;
      progress.synced = true;
      return { kind: "synced", lastSeq: item.value.lastSeq };
    case "keepAlive":
      // Ten quiet seconds prove more than a stream that opens: only then is the trouble over.
      trust(progress);
      return undefined;
    default:
      return undefined;
  }
}

/** Cuts the stream when the server says nothing for `silenceMs`; the time its reader takes does not count. */
async function* notSilent<T>(source: AsyncIterable<T>, silenceMs: number, cut: AbortController): AsyncGenerator<T> {
  const iterator = source[Symbol.asyncIterator]();
  let silent: ConnectError | undefined;
  for (;;) {
    const timer = setTimeout(() => {
      silent = new ConnectError(`nothing was heard for ${silenceMs} ms`, Code.Unavailable);
      cut.abort(silent);
    }, silenceMs);
    try {
      const next = await iterator.next();
      if (next.done) return;
      clearTimeout(timer);
      yield next.value;
    } catch (error) {
      throw silent ?? error;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** A stream may end cleanly because the log is read out, or because somebody between cut it cleanly: ask. */
async function isReadOut({ sessions }: WatchDeps, sessionId: string, cursor: number, signal: AbortSignal | undefined): Promise<boolean> {
  const { session } = await sessions.getSession({ sessionId }, signal ? { signal } : {});
  return session?.status === SessionStatus.ENDED && session.lastSeq <= cursor;
}

function trust(progress: Progress): void {
  progress.attempt = 0;
  progress.refreshed = false;
}

function heard({ onReconnected }: WatchOptions, progress: Progress): void {
  progress.heardAt = Date.now();
  if (!progress.lost) return;
  progress.lost = false;
  onReconnected?.();
}

/** Waits for the next try, or throws what makes it pointless. */
async function recover(error: unknown, { tokens }: WatchDeps, options: WatchOptions, progress: Progress): Promise<void> {
  if (isUnauthenticated(error)) {
    if (progress.refreshed || !tokens.forget()) throw error;
    progress.refreshed = true;
    return;
  }
  if (!mayPass(error)) throw error;
  if (isNonsense(error) && ++progress.fruitless >= fruitlessTries) throw error;
  if (Date.now() - progress.heardAt > (options.giveUpAfterMs ?? Infinity)) throw error;
  progress.attempt++;
  progress.lost = true;
  const delayMs = retryAfterMsOf(error) ?? delayBefore(progress.attempt, options);
  options.onReconnecting?.({ error, attempt: progress.attempt, delayMs });
  await pause(delayMs, options.signal);
}

function hole(expected: number, received: number): ConnectError {
  return new ConnectError(`event ${expected} is missing: the stream went on with ${received}`, Code.DataLoss);
}

/** A hole, or half a message (which the Connect client calls INVALID_ARGUMENT): worth reading again, but not for ever. */
function isNonsense(error: unknown): boolean {
  return error instanceof ConnectError && (error.code === Code.DataLoss || error.code === Code.InvalidArgument);
}
