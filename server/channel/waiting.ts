// What waits in a session: approvals and questions for a person, prompts for their turn.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Kysely } from "kysely";
import type { ListPendingResponseSchema, QueuedPromptSchema } from "../../gen/carrel/v1/channel_service_pb.ts";
import type { Database } from "../db/database.ts";
import { openApproval, openQuestion } from "../journal/pauses.ts";
import { openEvent } from "../journal/seal.ts";
import { listOpenPauses, listQueuedPromptRows, type PauseRow, type SessionRow } from "../journal/store.ts";
import type { UserVault } from "../vault/user-vault.ts";

export type WaitingDeps = {
  db: Kysely<Database>;
  userVault(userId: string): Promise<UserVault>;
  /** How long an approval or a question of a one-shot session waits, milliseconds. */
  approvalTimeoutMs: number;
};

/** Everything that waits for a person, oldest first. */
export async function pendingOf(deps: WaitingDeps, session: SessionRow): Promise<MessageInitShape<typeof ListPendingResponseSchema>> {
  const pauses = await listOpenPauses(deps.db, session.id);
  const vault = await deps.userVault(session.owner_id);
  const about = (pause: PauseRow) => ({
    createdAt: timestampFromDate(pause.created_at),
    seq: pause.seq,
    ...(session.one_shot ? { expiresAt: timestampFromMs(pause.created_at.getTime() + deps.approvalTimeoutMs) } : {}),
  });
  return {
    approvals: pauses.filter(({ kind }) => kind === "approval").map((pause) => ({ ...openApproval(vault, pause), ...about(pause) })),
    questions: pauses.filter(({ kind }) => kind === "question").map((pause) => ({ ...openQuestion(vault, pause), ...about(pause) })),
  };
}

/** A page of the prompts that have not begun, in the order in which they will. */
export async function queuedPromptsOf(
  { db, userVault }: WaitingDeps,
  session: SessionRow,
  afterSeq: number,
  limit: number,
): Promise<MessageInitShape<typeof QueuedPromptSchema>[]> {
  const rows = await listQueuedPromptRows(db, session.id, afterSeq, limit);
  if (rows.length === 0) return [];
  const vault = await userVault(session.owner_id);
  return rows.map((row) => {
    const { seq, createdAt, payload } = openEvent(vault, row);
    const prompt = payload?.kind.case === "user" ? payload.kind.value : undefined;
    return { seq, text: prompt?.text ?? "", requestId: prompt?.requestId ?? "", ...(createdAt ? { createdAt } : {}) };
  });
}
