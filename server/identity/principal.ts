import { createContextKey } from "@connectrpc/connect";

/** Who is calling, as a verified token says. */
export type Principal = {
  /** The issuer of the token. */
  issuer: string;
  /** The issuer's name for the person. */
  subject: string;
  /** E-mail address, where the token carries one that the issuer vouches for. */
  email: string | undefined;
  /** True for somebody who runs this installation. Only the built-in issuer can say so. */
  operator: boolean;
  /** When the token expires, milliseconds since 1970. */
  expiresAt: number;
};

/** A principal who has registered here. */
export type User = Principal & {
  /** UUID; owns sessions, keys and credentials. */
  userId: string;
};

/** The verified caller of a request. Set by the authorization interceptor before any handler runs. */
export const principalKey = createContextKey<Principal | undefined>(undefined, { description: "carrel.principal" });

/** The registered caller of a request; undefined on the methods that are open before registering. */
export const userKey = createContextKey<User | undefined>(undefined, { description: "carrel.user" });
