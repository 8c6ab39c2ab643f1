import { expect, test } from "vitest";
import { EndReasonSchema, PermissionModeSchema, SessionDetail, SessionStatus, UserState } from "../../../gen/carrel/v1/session_pb.ts";
import { endReasons, permissionModes, type Visible, viewOf } from "../../../server/journal/session-view.ts";
import { wordOf } from "../../../server/words.ts";

const { STARTING, RUNNING, ENDED } = SessionStatus;
const idle: Visible = {
  state: "running",
  started_at: new Date(),
  turn: 0,
  pending_count: 0,
  queued_prompts: 0,
  restoring: false,
  parked_at: null,
};

test("what people see follows from the row alone", () => {
  const parked_at = new Date();
  const table: [Partial<Visible>, SessionStatus, UserState, SessionDetail, boolean][] = [
    [{ state: "requested", started_at: null }, STARTING, UserState.RUNNING, SessionDetail.PROVISIONING, false],
    [{ state: "starting", started_at: null }, STARTING, UserState.RUNNING, SessionDetail.PROVISIONING, false],
    [{ state: "starting", started_at: null, queued_prompts: 1 }, STARTING, UserState.RUNNING, SessionDetail.PROVISIONING, false],
    [{ state: "requested" }, RUNNING, UserState.RUNNING, SessionDetail.RECOVERING, false],
    [{ state: "starting", turn: 4 }, RUNNING, UserState.RUNNING, SessionDetail.RECOVERING, false],
    [{}, RUNNING, UserState.WAITING, SessionDetail.IDLE, false],
    [{ turn: 4 }, RUNNING, UserState.RUNNING, SessionDetail.WORKING, false],
    [{ turn: 4, pending_count: 1 }, RUNNING, UserState.WAITING, SessionDetail.BLOCKED, true],
    [{ turn: 4, pending_count: 2, queued_prompts: 1 }, RUNNING, UserState.WAITING, SessionDetail.BLOCKED, true],
    [{ state: "hibernating" }, RUNNING, UserState.WAITING, SessionDetail.IDLE, false],
    [{ state: "dormant" }, RUNNING, UserState.WAITING, SessionDetail.DORMANT, false],
    [{ state: "requested", restoring: true }, RUNNING, UserState.RUNNING, SessionDetail.RESTORING, false],
    [{ state: "starting", restoring: true, queued_prompts: 1 }, RUNNING, UserState.RUNNING, SessionDetail.RESTORING, false],
    [{ state: "ending", turn: 4 }, RUNNING, UserState.RUNNING, SessionDetail.WORKING, false],
    [{ state: "ending" }, RUNNING, UserState.WAITING, SessionDetail.IDLE, false],
    [{ state: "requested", started_at: null, parked_at }, STARTING, UserState.WAITING, SessionDetail.BLOCKED, true],
    [{ state: "requested", restoring: true, parked_at }, RUNNING, UserState.WAITING, SessionDetail.BLOCKED, true],
    [{ turn: 4, parked_at }, RUNNING, UserState.WAITING, SessionDetail.BLOCKED, true],
    [{ state: "dormant", parked_at }, RUNNING, UserState.WAITING, SessionDetail.DORMANT, true],
    [{ state: "ended", parked_at }, ENDED, UserState.ENDED, SessionDetail.UNSPECIFIED, false],
    [{ state: "ended" }, ENDED, UserState.ENDED, SessionDetail.UNSPECIFIED, false],
    [{ state: "ended", turn: 4, pending_count: 1 }, ENDED, UserState.ENDED, SessionDetail.UNSPECIFIED, false],
    [{ state: "ended", started_at: null }, ENDED, UserState.ENDED, SessionDetail.UNSPECIFIED, false],
  ];
  for (const [change, status, userState, detail, needsAttention] of table)
    expect([change, viewOf({ ...idle, ...change })]).toEqual([change, { status, userState, detail, needsAttention }]);
});

test("the stored words are those of the contract, all of them", () => {
  const wordsOf = (schema: typeof EndReasonSchema | typeof PermissionModeSchema) =>
    schema.values.filter(({ number }) => number !== 0).map(({ number }) => [wordOf(schema, number), number]);
  expect(Object.fromEntries(wordsOf(EndReasonSchema))).toEqual(endReasons);
  expect(Object.fromEntries(wordsOf(PermissionModeSchema))).toEqual(permissionModes);
  expect(Object.keys(endReasons)).toHaveLength(EndReasonSchema.values.length - 1);
});
