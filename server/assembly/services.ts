// The public services, each given the few functions it needs of the others.
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import { ChannelService } from "../../gen/carrel/v1/channel_service_pb.ts";
import { CredentialService } from "../../gen/carrel/v1/credential_service_pb.ts";
import { MemoryService } from "../../gen/carrel/v1/memory_service_pb.ts";
import { ProfileService } from "../../gen/carrel/v1/profile_service_pb.ts";
import { RegistrationService } from "../../gen/carrel/v1/registration_service_pb.ts";
import { SessionService } from "../../gen/carrel/v1/session_service_pb.ts";
import { type ChannelActions, createChannelActions } from "../channel/actions.ts";
import { derivePattern } from "../channel/permissions/derive.ts";
import { patternMatches } from "../channel/permissions/engine.ts";
import { parsePattern } from "../channel/permissions/pattern.ts";
import { createChannelService } from "../channel/service.ts";
import type { Config } from "../config.ts";
import { createCredentialService } from "../credentials/service.ts";
import { hasCredential } from "../credentials/store.ts";
import { directWriterKey } from "../http/direct-stream.ts";
import { requireUser } from "../identity/authorize.ts";
import type { Departures } from "../identity/departures.ts";
import type { User } from "../identity/principal.ts";
import { createSocketTickets, type SocketTickets } from "../identity/tickets/tickets.ts";
import type { UserDirectory } from "../identity/user-directory.ts";
import { pinnedSettings } from "../journal/pinned.ts";
import { createRateLimiter, type RateLimiter } from "../limits/limiter.ts";
import type { Log } from "../log.ts";
import { createMemoryService } from "../memory/service.ts";
import { optionsMessage } from "../profiles/message.ts";
import { createProfileOpener } from "../profiles/open.ts";
import { createEffectiveSettings } from "../profiles/overrides.ts";
import { provisionDefaults } from "../profiles/provision.ts";
import { createProfileService } from "../profiles/service.ts";
import type { Removal } from "../registration/removal.ts";
import { createRegistrationService } from "../registration/service.ts";
import { listUnendedOf } from "../registration/store.ts";
import { sessionMessage } from "../sessions/message.ts";
import { claimWithin, once } from "../sessions/request-ids.ts";
import { checkedName } from "../sessions/rules.ts";
import { aliveOf, createSessionService } from "../sessions/service.ts";
import { listAliveOf, listOwned, type ShownSession } from "../sessions/store.ts";
import type { SessionsCore } from "./sessions-core.ts";
import type { Storage } from "./storage.ts";

/** Every public service of the contract. */
export const publicServices = [RegistrationService, CredentialService, ProfileService, MemoryService, SessionService, ChannelService];

export type ServiceParts = {
  config: Config;
  log: Log;
  storage: Storage;
  core: SessionsCore;
  directory: UserDirectory;
  departures: Departures;
  removal: Removal;
  /** Aborts with `signal`, when the person's token has been expired for a minute, and when the person leaves. */
  whileAllowed(user: User, signal: AbortSignal): AbortSignal;
  /** Asks the reconciler to look at a session now. */
  poke(sessionId: string): void;
};

const userIdOf = (context: HandlerContext) => requireUser(context).userId;
const isPattern = (text: string) => parsePattern(text) !== undefined;

export function createServices(parts: ServiceParts) {
  const { storage, core, config } = parts;
  const limiter = createRateLimiter({ perMinute: config.limits.perMinute });
  const actions = createChannelActions({
    limiter,
    db: storage.db,
    journal: core.journal,
    rules: { derive: derivePattern, matches: patternMatches, verdict: core.verdict },
    userVault: storage.userVault,
    aliveOf,
    requestIds: { once, claimWithin },
  });
  const tickets = createSocketTickets({ db: storage.db, hashToken: storage.hashToken });
  const services = { people: peopleServices(parts, limiter), sessions: sessionServices(parts, { limiter, actions, tickets }) };
  const routes = (router: ConnectRouter): void => {
    router.service(RegistrationService, services.people.registration);
    router.service(CredentialService, services.people.credential);
    router.service(ProfileService, services.people.profile);
    router.service(MemoryService, services.people.memory);
    router.service(SessionService, services.sessions.session);
    router.service(ChannelService, services.sessions.channel);
  };
  const sweep = async (): Promise<void> => {
    await limiter.sweep(storage.db);
    await tickets.sweep();
  };
  return { routes, actions, redeemTicket: tickets.redeem, sweep };
}

function peopleServices({ config, storage, core, directory, departures, removal, poke }: ServiceParts, limiter: RateLimiter) {
  const { db, userVault, vault, installation } = storage;
  const onChanged = (userId: string): void => {
    core.credentials.forget(userId);
    core.patience.forget(userId);
  };
  return {
    registration: createRegistrationService({
      limitRegistration: (person) => limiter.registration(db, person),
      db,
      createUserKey: async (tx, userId) => {
        await vault.createUserKey(tx, userId);
        await provisionDefaults(tx, userId);
      },
      allowedDomains: config.allowedEmailDomains,
      findUser: directory.find,
      onRegistered: directory.forget,
      shredUserKey: (tx, userId) => vault.shredUser(tx, userId),
      async onClosed({ issuer, subject }, userId) {
        directory.forget(issuer, subject);
        await departures.announce(userId);
        // The reconciler finds the others by itself, some at a time.
        for (const sessionId of await listUnendedOf(db, userId, installation)) poke(sessionId);
        removal.poke();
      },
    }),
    credential: createCredentialService({ db, userVault, onChanged }),
    profile: createProfileService({
      db,
      userVault,
      once,
      checkedName,
      isPattern,
      limit: config.limits.profiles,
      userIdOf,
      sessionSettings: async (ownerId, sessionId) =>
        pinnedSettings(await userVault(ownerId), await core.reader.session(ownerId, sessionId)),
    }),
    memory: createMemoryService({ db, userVault, userIdOf }),
  };
}

type Shared = { limiter: RateLimiter; actions: ChannelActions; tickets: SocketTickets };

function sessionServices({ config, log, storage, core, poke, whileAllowed }: ServiceParts, { limiter, actions, tickets }: Shared) {
  const { db, userVault, installation } = storage;
  const place = { region: config.region, demo: config.demo, showSettings: optionsMessage };
  const show = (rows: readonly ShownSession[]) =>
    Promise.all(rows.map(async (row) => sessionMessage(row, await userVault(row.owner_id), place)));
  return {
    session: createSessionService({
      db,
      journal: core.journal,
      userVault,
      userIdOf,
      hasCredential,
      effectiveSettings: createEffectiveSettings(createProfileOpener({ db, userVault }), isPattern),
      poke,
      announce: core.announce,
      concurrentSessions: config.limits.concurrentSessions,
      host: installation,
      limitCreate: limiter.sessionCreate,
      archives: storage.archives,
      onStranded: (error) => log.warn({ err: error }, "an archive that nothing names was not removed"),
      place,
    }),
    channel: createChannelService({
      db,
      actions,
      reader: core.reader,
      changed: core.changed,
      userVault,
      userOf: requireUser,
      approvalTimeoutMs: config.approvalTimeoutMs,
      async issueTicket(user, sessionId) {
        await limiter.ticket(db, user.userId);
        return tickets.issue(user, sessionId);
      },
      streamSignal: (context) => whileAllowed(requireUser(context), context.signal),
      directWriter: (context) => context.values.get(directWriterKey),
      showAliveOf: async (ownerId) => show(await listAliveOf(db, ownerId)),
      showOwned: async (ownerId, sessionIds) => show(await listOwned(db, ownerId, sessionIds)),
    }),
  };
}
