import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Kysely } from "kysely";
import type { CredentialService } from "../../gen/carrel/v1/credential_service_pb.ts";
import type { Database } from "../db/database.ts";
import { requireUser } from "../identity/authorize.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { checkApiKey, credentialTypeOf } from "./rules.ts";
import { sealSecret } from "./seal.ts";
import { type CredentialKind, deleteCredential, findGeneration, findStatus, putCredential } from "./store.ts";

export type CredentialDeps = {
  db: Kysely<Database>;
  userVault: (userId: string) => Promise<UserVault>;
  /** Told after the commit of a change, so that nobody goes on using the secret of before. */
  onChanged: (userId: string) => void;
};

export function createCredentialService(deps: CredentialDeps): ServiceImpl<typeof CredentialService> {
  return {
    async setApiKey({ apiKey }, context) {
      const { userId } = requireUser(context);
      checkApiKey(apiKey);
      const secret = Buffer.from(apiKey, "utf8");
      try {
        await storeCredential(deps, userId, "api_key", secret);
      } finally {
        secret.fill(0);
      }
      return { success: true, message: "the API key is stored" };
    },
    async getCredentialStatus(_request, context) {
      const status = await findStatus(deps.db, requireUser(context).userId);
      if (!status) return { hasCredentials: false };
      return {
        hasCredentials: true,
        credentialType: credentialTypeOf(status.kind),
        createdAt: timestampFromDate(status.createdAt),
      };
    },
    async deleteCredential(_request, context) {
      const { userId } = requireUser(context);
      await deleteCredential(deps.db, userId);
      deps.onChanged(userId);
      return { success: true };
    },
  };
}

/** Puts `secret` in place of whatever the user had stored. The caller wipes `secret`. */
export async function storeCredential(
  { db, userVault, onChanged }: CredentialDeps,
  userId: string,
  kind: CredentialKind,
  secret: Uint8Array,
): Promise<void> {
  for (;;) {
    const generation = (await findGeneration(db, userId)) + 1;
    const envelope = sealSecret(await userVault(userId), userId, generation, secret);
    // False only when another call stored a generation meanwhile, so somebody always gets on.
    if (await putCredential(db, userId, { kind, generation, envelope })) break;
  }
  onChanged(userId);
}
