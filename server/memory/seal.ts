import { hash } from "node:crypto";
import type { UserVault } from "../vault/user-vault.ts";

/** Names one writing of one file. Its envelopes open as nothing else. */
export type Place = { profile_id: string; path: string; generation: number };

export type SealedMemory = { digest: Uint8Array; content: Uint8Array };

/** SHA-256 of a content, 64 hex digits. */
export function digestOf(content: Uint8Array): string {
  return hash("sha256", content, "hex");
}

export function sealMemory(vault: UserVault, place: Place, content: Uint8Array): SealedMemory {
  return {
    digest: vault.seal("profile_memory", contextOf(place, "digest"), Buffer.from(digestOf(content), "hex")),
    content: vault.seal("profile_memory", contextOf(place, "content"), content),
  };
}

/** Throws what `UserVault.open` throws. */
export function openDigest(vault: UserVault, row: Place & { digest: Uint8Array }): string {
  return Buffer.from(vault.open("profile_memory", contextOf(row, "digest"), row.digest)).toString("hex");
}

/** Throws what `UserVault.open` throws. */
export function openContent(vault: UserVault, row: Place & { content: Uint8Array }): Uint8Array {
  return vault.open("profile_memory", contextOf(row, "content"), row.content);
}

/** A path may be longer than a part of a context, so its hash stands for it. */
function contextOf({ profile_id, path, generation }: Place, part: "digest" | "content") {
  return { resourceType: "profile_memory", resourceId: profile_id, field: `${hash("sha256", path, "hex")}/${part}`, generation };
}
