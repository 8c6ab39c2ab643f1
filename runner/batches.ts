import { create, type UnknownField } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { type Client, Code, ConnectError } from "@connectrpc/connect";
import { createWritableIterable } from "@connectrpc/connect/protocol";
import {
  type ReportEventsRequest,
  ReportEventsRequestSchema,
  type ReportEventsResponse,
  type RunnerService,
} from "../gen/carrel/runner/v1/runner_service_pb.ts";

/** What goes with the events of a batch. */
export type BatchHead = Omit<ReportEventsRequest, "$typeName" | "$unknown" | "events">;

/**
 * Sends batches of encoded events, one at a time, in one stream that stays open: a call of its own costs five times as much as
 * a message. Rejects when the stream ends; the next batch opens another.
 */
export function createBatchCall(client: Client<typeof RunnerService>) {
  let open: BatchStream | undefined;
  return async (head: BatchHead, events: readonly Uint8Array[]): Promise<ReportEventsResponse> => {
    const stream = (open ??= openStream(client));
    open = undefined;
    stream.send(requestOf(head, events));
    // A stream can end without anybody being told; sent once more, a batch is taken once.
    const late = setTimeout(stream.cut, answerMs);
    const answer = await stream.answers.next().finally(() => clearTimeout(late));
    if (answer.done) throw new ConnectError("the stream ended before its batch was answered", Code.Unavailable);
    open = stream;
    return answer.value;
  };
}

/** Longer than a commit ever takes, and shorter than a lease lasts without a heartbeat. */
const answerMs = 20_000;

type BatchStream = {
  send(batch: ReportEventsRequest): void;
  answers: AsyncIterator<ReportEventsResponse>;
  /** Ends the stream: who waits for an answer is told that it is canceled. */
  cut(): void;
};

function openStream(client: Client<typeof RunnerService>): BatchStream {
  const requests = createWritableIterable<ReportEventsRequest>();
  const cutting = new AbortController();
  const answers = client.reportEvents(requests, { signal: cutting.signal })[Symbol.asyncIterator]();
  return {
    answers,
    cut: () => cutting.abort(),
    // Why a batch could not be written is told where its answer is waited for.
    send: (batch) => void requests.write(batch).catch(() => undefined),
  };
}

function requestOf(head: BatchHead, events: readonly Uint8Array[]): ReportEventsRequest {
  const request = create(ReportEventsRequestSchema, head);
  request.$unknown = events.map(encodedEvent);
  return request;
}

/** Fields that a message does not know are written as they are: so an event is encoded once, for the spool and for its batch. */
function encodedEvent(event: Uint8Array): UnknownField {
  const { number: no } = ReportEventsRequestSchema.field.events;
  return { no, wireType: WireType.LengthDelimited, data: new BinaryWriter().bytes(event).finish() };
}
