import { hash } from "node:crypto";
import { type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { type ColumnType, type Generated, type Kysely, type RawBuilder, sql, type Transaction } from "kysely";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Database } from "../db/database.ts";
import { refusal } from "../errors.ts";
import type { UserVault } from "../vault/user-vault.ts";

export type RequestIdTable = {
  owner_id: string;
  method: string;
  request_id: string;
  /** The sealed hash of the request: a bare one would let secrets in it be guessed. */
  parameters: ColumnType<Buffer, Uint8Array, Uint8Array>;
  /** The sealed answer. */
  response: ColumnType<Buffer, Uint8Array, Uint8Array>;
  created_at: Generated<Date>;
};

export type Repeatable<Request extends DescMessage, Response extends DescMessage> = {
  ownerId: string;
  method: string;
  requestId: string;
  vault: UserVault;
  request: { schema: Request; message: MessageShape<Request> };
  response: Response;
};

/**
 * Does `work` once for each request id of a caller and method (design D5): a repeat gets the first answer, the same id with
 * other content is refused, and of two at once the second waits for the first. The answer is kept in the transaction of the
 * work itself, so neither exists without the other. Without a request id the work is simply done.
 */
export async function once<Request extends DescMessage, Response extends DescMessage>(
  tx: Transaction<Database>,
  call: Repeatable<Request, Response>,
  work: () => Promise<MessageShape<Response>>,
): Promise<MessageShape<Response>> {
  if (!call.requestId) return work();
  const parameters = parametersOf(call);
  const claimed = await tx
    .insertInto("request_id")
    .values({
      owner_id: call.ownerId,
      method: call.method,
      request_id: call.requestId,
      parameters: sealed(call, "parameters", parameters),
      response: Buffer.alloc(0),
    })
    .onConflict((conflict) => conflict.columns(["owner_id", "method", "request_id"]).doNothing())
    .executeTakeFirst();
  const where = { owner_id: call.ownerId, method: call.method, request_id: call.requestId };
  if (claimed.numInsertedOrUpdatedRows === 1n) {
    const answer = await work();
    const response = sealed(call, "response", toBinary(call.response, answer));
    await tx
      .updateTable("request_id")
      .set({ response })
      .where((row) => row.and(where))
      .execute();
    return answer;
  }
  const first = await tx
    .selectFrom("request_id")
    .selectAll()
    .where((row) => row.and(where))
    .executeTakeFirstOrThrow();
  if (!parameters.equals(call.vault.open("events", context(call, "parameters"), first.parameters))) {
    throw refusal(ErrorReason.REQUEST_ID_REUSED, "this request_id was used before with other content", { request_id: call.requestId });
  }
  return fromBinary(call.response, call.vault.open("events", context(call, "response"), first.response));
}

/**
 * Claims the request id of a call with its answer, as a query of a larger statement that returns nothing for a call that
 * was made before. `after` is a table of one row, or none when nothing is to be done.
 */
export function claimWithin<Request extends DescMessage, Response extends DescMessage>(
  call: Repeatable<Request, Response>,
  answer: MessageShape<Response>,
) {
  const { ownerId, method, requestId } = call;
  const parameters = sealed(call, "parameters", parametersOf(call));
  const response = sealed(call, "response", toBinary(call.response, answer));
  return (after: RawBuilder<unknown>) => sql`insert into request_id (owner_id, method, request_id, parameters, response)
    select ${ownerId}, ${method}, ${requestId}, ${parameters}, ${response} from ${after}
    on conflict (owner_id, method, request_id) do nothing returning 1`;
}

function parametersOf<Request extends DescMessage>({ request }: Pick<Repeatable<Request, DescMessage>, "request">): Buffer {
  return hash("sha256", toBinary(request.schema, request.message), "buffer");
}

function sealed(call: { method: string; requestId: string; vault: UserVault }, part: string, plain: Uint8Array): Uint8Array {
  return call.vault.seal("events", context(call, part), plain);
}

function context(call: { method: string; requestId: string }, part: string) {
  return { resourceType: "request", resourceId: hash("sha256", call.requestId, "hex"), field: `${call.method}/${part}`, generation: 0 };
}

/** Forgets the request ids that are older than a day. */
export async function forgetOldRequestIds(db: Kysely<Database>): Promise<void> {
  await sql`delete from request_id where (owner_id, method, request_id) in (
    select owner_id, method, request_id from request_id where created_at < now() - interval '24 hours' for update skip locked
  )`.execute(db);
}

/** Whether a call with this request id has been made, or is being made and already committed. */
export async function isRepeated(
  db: Kysely<Database>,
  { ownerId, method, requestId }: { ownerId: string; method: string; requestId: string },
): Promise<boolean> {
  if (!requestId) return false;
  const where = { owner_id: ownerId, method, request_id: requestId };
  const row = await db
    .selectFrom("request_id")
    .select("method")
    .where((found) => found.and(where))
    .executeTakeFirst();
  return row !== undefined;
}
