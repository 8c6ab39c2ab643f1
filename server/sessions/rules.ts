import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../errors.ts";

/** A display name after trimming, or the product's own refusal. `limit` counts code points. */
export function checkedName(name: string, limit = 200): string {
  const trimmed = name.trim();
  if (!trimmed) throw refusal(ErrorReason.NAME_REQUIRED, "name must not be empty");
  if ([...trimmed].length > limit) {
    throw refusal(ErrorReason.NAME_TOO_LONG, `name is longer than ${limit} characters`, { limit: String(limit) });
  }
  return trimmed;
}

/** The page size that a request means. */
export function pageSize(limit: number): number {
  return limit === 0 ? 50 : Math.min(limit, 200);
}

/** Where the next page begins; bound to its filter so that a cursor is never taken for another list's. */
export type Cursor = { beforeId: string; status: number };

export function writeCursor(cursor: Cursor): string {
  return Buffer.from(`${cursor.status}:${cursor.beforeId}`).toString("base64url");
}

export function readCursor(text: string, status: number): Cursor | undefined {
  if (!text) return undefined;
  const match = /^(\d+):(ses_[0-9a-f]{32})$/.exec(Buffer.from(text, "base64url").toString("latin1"));
  if (!match?.[2] || Number(match[1]) !== status) {
    throw refusal(ErrorReason.INVALID_CURSOR, "cursor is not one that this list gave out");
  }
  return { beforeId: match[2], status };
}
