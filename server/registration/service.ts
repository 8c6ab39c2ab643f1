import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Kysely, Transaction } from "kysely";
import type { RegistrationService } from "../../gen/carrel/v1/registration_service_pb.ts";
import type { Database } from "../db/database.ts";
import { requirePrincipal } from "../identity/authorize.ts";
import type { Principal } from "../identity/principal.ts";
import type { FindUser } from "../identity/user-directory.ts";
import { newUuid } from "../ids.ts";
import { checkMayRegister } from "./rules.ts";
import { closeAccount, findRegistration, insertUser, type Registration } from "./store.ts";

export type RegistrationDeps = {
  db: Kysely<Database>;
  /** Makes the user's data key in the transaction that makes the user. */
  createUserKey: (tx: Transaction<Database>, userId: string) => Promise<void>;
  limitRegistration(person: Principal): Promise<void>;
  /** Domains of the e-mail addresses that may register; empty lets everybody in. */
  allowedDomains: readonly string[];
  /** The account of a person, as this process remembers it. */
  findUser: FindUser;
  /** Told after the commit, so that nobody goes on believing that the person is not registered. */
  onRegistered: (issuer: string, subject: string) => void;
  /** Destroys the user's data key in the transaction that closes the account. */
  shredUserKey: (tx: Transaction<Database>, userId: string) => Promise<void>;
  /** Told after the commit, once or more often, so that nobody goes on working for the person. */
  onClosed: (person: Principal, userId: string) => Promise<void>;
};

export function createRegistrationService(deps: RegistrationDeps): ServiceImpl<typeof RegistrationService> {
  return {
    async register(_request, context) {
      const { registeredAt } = await register(deps, requirePrincipal(context));
      return { registered: true, registeredAt: timestampFromDate(registeredAt) };
    },
    async deregister(_request, context) {
      await deregister(deps, requirePrincipal(context));
      return { deregistered: true };
    },
  };
}

/** Whoever worked for the person is told even when it is not known whether the account was closed: the answer to a commit may be lost. */
async function deregister(deps: RegistrationDeps, person: Principal): Promise<void> {
  const remembered = await deps.findUser(person.issuer, person.subject);
  let leaving: string | undefined;
  try {
    const closed = await closeAccount(deps.db, person, async (tx, userId) => {
      await deps.shredUserKey(tx, userId);
      leaving = userId;
    });
    // Closed already, by a call of which this process may not have heard.
    if (!closed) leaving = remembered;
  } finally {
    if (leaving) await deps.onClosed(person, leaving);
  }
}

async function register(deps: RegistrationDeps, principal: Principal): Promise<Registration> {
  await deps.limitRegistration(principal);
  // Before the rule: narrowing the list later closes the door to newcomers, it does not break a repeated call.
  const existing = await findRegistration(deps.db, principal);
  if (existing) return existing;
  checkMayRegister(principal.email, deps.allowedDomains);
  const userId = newUuid();
  const { issuer, subject, email } = principal;
  const created = await insertUser(deps.db, { userId, issuer, subject, email }, (tx) => deps.createUserKey(tx, userId));
  deps.onRegistered(issuer, subject);
  const registration = created ?? (await findRegistration(deps.db, principal));
  if (!registration) throw new Error("the registration that was there a moment ago is gone");
  return registration;
}
