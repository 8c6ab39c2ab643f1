import { Code, ConnectError, createClient, createContextValues, createRouterTransport } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { RunnerService } from "../../../gen/carrel/runner/v1/runner_service_pb.ts";
import { ChannelService } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { CredentialService } from "../../../gen/carrel/v1/credential_service_pb.ts";
import { RegistrationService } from "../../../gen/carrel/v1/registration_service_pb.ts";
import { SessionService } from "../../../gen/carrel/v1/session_service_pb.ts";
import { Health } from "../../../gen/grpc/health/v1/health_pb.ts";
import {
  createAuthorizationInterceptor,
  createAuthorizer,
  methodsWithoutAccess,
  requirePrincipal,
  requireUser,
} from "../../../server/identity/authorize.ts";
import { principalKey, userKey } from "../../../server/identity/principal.ts";
import { unauthenticated } from "../../../server/identity/refusals.ts";
import { outcomeOf } from "./problem-of.ts";

const USER_ID = "0190a000-0000-7000-8000-000000000001";
const publicServices = [Health];

/** `good` is registered, `new` is signed in only. */
const authorize = createAuthorizer({
  verify: async (token) => {
    if (token !== "good" && token !== "new") throw unauthenticated("malformed");
    return { issuer: "carrel", subject: token, email: undefined, operator: false, expiresAt: Date.now() + 60_000 };
  },
  findUser: async (_issuer, subject) => (subject === "good" ? USER_ID : undefined),
  publicServices,
});

function connect() {
  const ran: string[] = [];
  const transport = createRouterTransport(
    ({ service }) => {
      service(RegistrationService, {
        register: (_request, context) => {
          ran.push(`register ${requirePrincipal(context).subject} ${context.values.get(userKey)?.userId ?? "-"}`);
          return { registered: true };
        },
      });
      service(CredentialService, {
        getCredentialStatus: (_request, context) => {
          const user = requireUser(context);
          ran.push(`status ${user.subject} ${user.userId}`);
          return {};
        },
      });
      service(ChannelService, {
        async *watchEvents(_request, context) {
          ran.push(`watch ${requireUser(context).userId}`);
          yield {};
        },
      });
      service(Health, {
        check: (_request, context) => {
          ran.push(`health ${context.values.get(principalKey)?.subject ?? "-"}`);
          return {};
        },
      });
      service(RunnerService, { attach: () => ({}) });
    },
    { router: { interceptors: [createAuthorizationInterceptor(authorize)] } },
  );
  return { transport, ran };
}

const bearer = (value: string) => ({ headers: { authorization: value } });

async function drain(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}

describe("a unary call", () => {
  it("of a registered person reaches its handler with the user", async () => {
    const { transport, ran } = connect();
    await createClient(CredentialService, transport).getCredentialStatus({}, bearer("Bearer good"));
    await createClient(CredentialService, transport).getCredentialStatus({}, bearer("bEARER  good"));
    expect(ran).toEqual([`status good ${USER_ID}`, `status good ${USER_ID}`]);
  });

  it("of somebody not registered reaches registration alone", async () => {
    const { transport, ran } = connect();
    await createClient(RegistrationService, transport).register({}, bearer("Bearer new"));
    const status = createClient(CredentialService, transport).getCredentialStatus({}, bearer("Bearer new"));
    await expect(status).rejects.toThrow(/POST \/v1\/register/);
    expect(await outcomeOf(status)).toBe("NOT_REGISTERED");
    expect(ran).toEqual(["register new -"]);
  });

  it.each([
    [undefined, "missing"],
    ["", "malformed"],
    ["Bearer", "malformed"],
    ["Bearer ", "malformed"],
    ["good", "malformed"],
    ["Basic good", "malformed"],
    ["Bearer good, Bearer good", "malformed"],
    ["Bearer good good", "malformed"],
    ["Bearer bad", "malformed"],
  ])("with authorization %j is refused before its handler runs", async (value, problem) => {
    const { transport, ran } = connect();
    const options = value === undefined ? {} : bearer(value);
    for (const call of [
      createClient(CredentialService, transport).getCredentialStatus({}, options),
      createClient(RegistrationService, transport).register({}, options),
      drain(createClient(ChannelService, transport).watchEvents({}, options)),
    ]) {
      expect(await outcomeOf(call)).toBe(`UNAUTHENTICATED ${problem}`);
    }
    expect(ran).toEqual([]);
  });

  it("of a public service needs no token and does not look at one", async () => {
    const { transport, ran } = connect();
    await createClient(Health, transport).check({});
    await createClient(Health, transport).check({}, bearer("Bearer bad"));
    expect(ran).toEqual(["health -", "health -"]);
  });

  it("of a runner is not served with a person's token", async () => {
    const { transport } = connect();
    const attach = createClient(RunnerService, transport).attach({}, bearer("Bearer good"));
    expect(((await attach.catch(ConnectError.from)) as ConnectError).code).toBe(Code.Internal);
  });
});

describe("a stream", () => {
  it("of a registered person reaches its handler with the user", async () => {
    const { transport, ran } = connect();
    await drain(createClient(ChannelService, transport).watchEvents({}, bearer("Bearer good")));
    expect(ran).toEqual([`watch ${USER_ID}`]);
  });

  it("of somebody not registered is refused", async () => {
    const { transport } = connect();
    const stream = drain(createClient(ChannelService, transport).watchEvents({}, bearer("Bearer new")));
    expect(await outcomeOf(stream)).toBe("NOT_REGISTERED");
  });
});

describe("the contract", () => {
  it("says of every public method who may call it", () => {
    const services = [RegistrationService, CredentialService, SessionService, ChannelService, Health];
    expect(methodsWithoutAccess(services, publicServices)).toEqual([]);
  });

  it("is incomplete where a method says nothing, or belongs to runners", () => {
    expect(methodsWithoutAccess([Health], [])).toContain("grpc.health.v1.Health.Check");
    expect(methodsWithoutAccess([RunnerService], [])).toHaveLength(RunnerService.methods.length);
  });

  it("keeps every method but registration for the registered", async () => {
    const open: string[] = [];
    for (const method of [RegistrationService, CredentialService, SessionService, ChannelService].flatMap((s) => s.methods)) {
      const values = createContextValues();
      const work = authorize(method, new Headers({ authorization: "Bearer new" }), values);
      if ((await outcomeOf(work)) === "accepted") open.push(method.name);
    }
    expect(open).toEqual(["Register", "Deregister"]);
  });

  it("leaves handlers without authorization nothing to work with", () => {
    expect(() => requireUser({ values: createContextValues() })).toThrow(/without authorization/);
    expect(() => requirePrincipal({ values: createContextValues() })).toThrow(/without authorization/);
  });
});
