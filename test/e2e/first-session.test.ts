import { createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ChannelService } from "../../gen/carrel/v1/channel_service_pb.ts";
import { CredentialService } from "../../gen/carrel/v1/credential_service_pb.ts";
import type { Event } from "../../gen/carrel/v1/event_pb.ts";
import { RegistrationService } from "../../gen/carrel/v1/registration_service_pb.ts";
import { EndReason } from "../../gen/carrel/v1/session_pb.ts";
import { SessionService } from "../../gen/carrel/v1/session_service_pb.ts";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, plantedKey, startApp } from "../support/carrel.ts";

let installation: Installation;
let app: App;

beforeAll(async () => {
  installation = await createInstallation();
  app = await startApp(installation);
});

afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

async function clientsFor(email: string) {
  const token = await installation.tokenFor(email);
  const authenticate: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  const transport = createConnectTransport({ baseUrl: app.url, httpVersion: "2", interceptors: [authenticate] });
  return {
    registration: createClient(RegistrationService, transport),
    credentials: createClient(CredentialService, transport),
    sessions: createClient(SessionService, transport),
    channel: createClient(ChannelService, transport),
  };
}

test("a person registers, stores a key, and talks to the real agent, which asks before it runs a command", async () => {
  const { registration, credentials, sessions, channel } = await clientsFor("first@example.com");
  await registration.register({});
  await credentials.setApiKey({ apiKey: plantedKey });
  const { session } = await sessions.createSession({ name: "first" });
  const sessionId = session!.id;
  await channel.sendPrompt({ sessionId, text: '[[text On it.]] [[tool Bash {"command":"echo from-the-sandbox"}]]' });

  const events: Event[] = [];
  for await (const { item } of channel.watchEvents({ sessionId })) {
    if (item.case !== "event") continue;
    events.push(item.value);
    const kind = item.value.payload?.kind;
    if (kind?.case === "toolApprovalRequest") await channel.answerApproval({ sessionId, toolUseId: kind.value.toolUseId, approved: true });
    if (kind?.case === "result") await sessions.terminateSession({ sessionId });
  }

  expect(events.map((event) => event.seq)).toEqual(events.map((_, index) => index + 1));
  const kinds = events.map((event) => event.payload?.kind.case);
  expect(kinds.filter((kind) => kind !== "usageDelta" && kind !== "sessionStatus")).toEqual([
    "user",
    "turnStart",
    "sdkSessionId",
    "assistant",
    "toolUse",
    "toolApprovalRequest",
    "toolApprovalResolved",
    "toolResult",
    "assistant",
    "result",
    "sessionEnd",
  ]);
  const result = events.find((event) => event.payload?.kind.case === "toolResult")?.payload?.kind;
  expect(JSON.stringify(result)).toContain("from-the-sandbox");
  const { session: ended } = await sessions.getSession({ sessionId });
  expect(ended?.endReason).toBe(EndReason.USER_REQUESTED);
  expect(ended?.numTurns).toBe(1);
  expect(ended?.costUsd).toBeGreaterThan(0);
});
