/** A signed-up person with typed clients, for tests that drive the product from outside. */
import { type Client, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { ChannelService } from "../../gen/carrel/v1/channel_service_pb.ts";
import { CredentialService } from "../../gen/carrel/v1/credential_service_pb.ts";
import { RegistrationService } from "../../gen/carrel/v1/registration_service_pb.ts";
import { PermissionMode } from "../../gen/carrel/v1/session_pb.ts";
import { SessionService } from "../../gen/carrel/v1/session_service_pb.ts";
import { type Installation, plantedKey } from "./carrel.ts";

export type Person = {
  token: string;
  registration: Client<typeof RegistrationService>;
  credentials: Client<typeof CredentialService>;
  sessions: Client<typeof SessionService>;
  channel: Client<typeof ChannelService>;
};

/** Clients for whoever holds `token`. */
export function clientsWith(url: string, token: string): Person {
  const authenticate: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  const transport = createConnectTransport({ baseUrl: url, httpVersion: "2", interceptors: [authenticate] });
  return {
    token,
    registration: createClient(RegistrationService, transport),
    credentials: createClient(CredentialService, transport),
    sessions: createClient(SessionService, transport),
    channel: createClient(ChannelService, transport),
  };
}

/** Registers a person and stores the key that the scripted model accepts. */
export async function signUp(installation: Installation, url: string, email: string, apiKey = plantedKey): Promise<Person> {
  const person = clientsWith(url, await installation.tokenFor(email));
  await person.registration.register({});
  await person.credentials.setApiKey({ apiKey });
  return person;
}

/** A session whose tools run without asking, unless `asking`. */
export async function openSession(person: Person, options: { asking?: boolean; initialPrompt?: string } = {}): Promise<string> {
  const { session } = await person.sessions.createSession({
    permissionMode: options.asking ? PermissionMode.ACCEPT_EDITS : PermissionMode.BYPASS_PERMISSIONS,
    initialPrompt: options.initialPrompt ?? "",
  });
  return session!.id;
}
