import { createTtlCache } from "./ttl-cache.ts";

/** The user id of a registered person; undefined for everybody else. */
export type FindUser = (issuer: string, subject: string) => Promise<string | undefined>;

export type UserDirectory = {
  find: FindUser;
  /** Call it when a registration is committed or removed. */
  forget(issuer: string, subject: string): void;
  /** Call it when another server has removed a registration. */
  forgetAll(): void;
};

const MAX_REMEMBERED = 10_000;
const REMEMBER_MS = 5_000;

/**
 * Remembers for 5 s who is registered, and nobody who is not: somebody who registers on another server is known here
 * at once. Concurrent questions about one person share one look-up.
 */
export function createUserDirectory(load: FindUser, now: () => number = () => performance.now()): UserDirectory {
  const answers = createTtlCache<Promise<string | undefined>>(MAX_REMEMBERED, now);

  function ask(key: string, issuer: string, subject: string): Promise<string | undefined> {
    const answer = load(issuer, subject);
    answers.set(key, answer, now() + REMEMBER_MS);
    answer.then(
      (userId) => userId === undefined && answers.delete(key, answer),
      () => answers.delete(key, answer),
    );
    return answer;
  }

  return {
    find: async (issuer, subject) => {
      const key = keyOf(issuer, subject);
      return answers.get(key) ?? ask(key, issuer, subject);
    },
    forget: (issuer, subject) => answers.delete(keyOf(issuer, subject)),
    forgetAll: answers.clear,
  };
}

/** Neither part holds a control character: issuers come from the configuration, subjects are checked. */
function keyOf(issuer: string, subject: string): string {
  return `${issuer}\n${subject}`;
}
