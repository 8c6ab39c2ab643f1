import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, it } from "vitest";
import { createConversation } from "../../../cli/conversation.ts";
import { type EventPayloadSchema, EventSchema } from "../../../gen/carrel/v1/event_pb.ts";

const eventOf = (seq: number, turn: number, kind: NonNullable<MessageInitShape<typeof EventPayloadSchema>["kind"]>) =>
  create(EventSchema, { seq, turn, payload: { kind } });

it("a conversation is busy until every prompt has ended or was taken back, and counts only turns that ended", () => {
  const conversation = createConversation();
  conversation.see(eventOf(1, 0, { case: "user", value: { text: "one" } }));
  conversation.see(eventOf(2, 1, { case: "turnStart", value: { promptSeq: 1 } }));
  conversation.accepted(3);
  conversation.see(eventOf(3, 1, { case: "user", value: { text: "two", queued: true } }));
  conversation.see(eventOf(4, 1, { case: "result", value: { success: true } }));
  expect([conversation.busy(), conversation.results()]).toEqual([true, 1]);
  conversation.see(eventOf(5, 0, { case: "promptCanceled", value: { promptSeq: 3, canceledBy: "you@example.com" } }));
  expect([conversation.busy(), conversation.results()]).toEqual([false, 1]);
  // An answer to the call may be later than the event.
  conversation.accepted(3);
  expect(conversation.busy()).toBe(false);
});
