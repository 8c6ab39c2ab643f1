import { type DescMethod, type DescService, getOption, hasOption } from "@bufbuild/protobuf";
import type { ContextValues, HandlerContext, Interceptor } from "@connectrpc/connect";
import { createContextKey } from "@connectrpc/connect";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { Action, authorization, Resource } from "../../gen/carrel/v1/options_pb.ts";
import { refusal } from "../errors.ts";
import { type Principal, principalKey, type User, userKey } from "./principal.ts";
import { unauthenticated } from "./refusals.ts";
import type { FindUser } from "./user-directory.ts";
import type { VerifyToken } from "./verify.ts";

export type AuthorizationDeps = {
  verify: VerifyToken;
  /** Must be cheap: asked on every call of a registered person. */
  findUser: FindUser;
  /** Services anybody may call, health and reflection. Every other method needs its authorization option. */
  publicServices: readonly DescService[];
};

/** Sets `principalKey` and `userKey`, or rejects with the refusal. */
export type Authorize = (method: DescMethod, header: Headers, values: ContextValues) => Promise<void>;

/** Who may call a method: anybody, the signed-in, the registered; `nobody` when the contract does not say. */
type Access = "public" | "signed_in" | "registered" | "nobody";

const authorizedKey = createContextKey<DescMethod | undefined>(undefined, { description: "carrel.authorized" });

/** The one decision behind the interceptor, the gate, and every surface that calls handlers without either. */
export function createAuthorizer({ verify, findUser, publicServices }: AuthorizationDeps): Authorize {
  const accessOf = new WeakMap<DescMethod, Access>();
  return async (method, header, values) => {
    // The gate was here before the interceptor.
    if (values.get(authorizedKey) === method) return;
    const access = accessOf.get(method) ?? readAccess(method, publicServices);
    accessOf.set(method, access);
    if (access === "nobody") throw refusal(ErrorReason.INTERNAL, "internal error");
    if (access !== "public") {
      const principal = await verify(bearerToken(header));
      values.set(principalKey, principal);
      if (access === "registered") values.set(userKey, await registered(principal, findUser));
    }
    values.set(authorizedKey, method);
  };
}

/** For every handler. A stream is refused before its first message is read; a unary message has been read by then. */
export function createAuthorizationInterceptor(authorize: Authorize): Interceptor {
  return (next) => async (request) => {
    await authorize(request.method, request.header, request.contextValues);
    return next(request);
  };
}

/** For Connect's `requestGate`: refuses before anything of the body is read. Goes with the interceptor, costs no more. */
export function createAuthorizationGate(authorize: Authorize): (context: HandlerContext) => Promise<void> {
  return ({ method, requestHeader, values }) => authorize(method, requestHeader, values);
}

/** Names of the methods nobody could call, because their contract does not say who may. Start with none. */
export function methodsWithoutAccess(services: readonly DescService[], publicServices: readonly DescService[]): string[] {
  return services
    .flatMap((service) => service.methods)
    .filter((method) => readAccess(method, publicServices) === "nobody")
    .map((method) => `${method.parent.typeName}.${method.name}`);
}

/** The token of an `authorization: bearer …` header. */
function bearerToken(header: Headers): string {
  const value = header.get("authorization");
  if (value === null) throw unauthenticated("missing");
  const [, token] = /^bearer +(\S+)$/i.exec(value) ?? [];
  if (token === undefined) throw unauthenticated("malformed");
  return token;
}

/** The signed-in caller of a method that is open before registering. */
export function requirePrincipal({ values }: Pick<HandlerContext, "values">): Principal {
  const principal = values.get(principalKey);
  if (!principal) throw new Error("a handler ran without authorization");
  return principal;
}

/** The registered caller. */
export function requireUser({ values }: Pick<HandlerContext, "values">): User {
  const user = values.get(userKey);
  if (!user) throw new Error("a handler ran without authorization of a registered user");
  return user;
}

/** A signed-in person as a user; NOT_REGISTERED when there is no account. */
async function registered(principal: Principal, findUser: FindUser): Promise<User> {
  const userId = await findUser(principal.issuer, principal.subject);
  if (userId === undefined) {
    throw refusal(ErrorReason.NOT_REGISTERED, "you are signed in but have no account here yet: call POST /v1/register first");
  }
  return { ...principal, userId };
}

function readAccess(method: DescMethod, publicServices: readonly DescService[]): Access {
  if (publicServices.some((service) => service.typeName === method.parent.typeName)) return "public";
  if (!hasOption(method, authorization)) return "nobody";
  const { resource, action, unregistered } = getOption(method, authorization);
  // Runners have a listener and tokens of their own; here they are not served.
  if (resource === Resource.UNSPECIFIED || action === Action.UNSPECIFIED || resource === Resource.RUNNER) return "nobody";
  return unregistered ? "signed_in" : "registered";
}
