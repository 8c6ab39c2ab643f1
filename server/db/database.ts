import type { CredentialTable } from "../credentials/store.ts";
import type { SocketTicketTable } from "../identity/tickets/store.ts";
import type { JournalTables } from "../journal/tables.ts";
import type { RateLimitTable } from "../limits/store.ts";
import type { ProfileMemoryTable } from "../memory/store.ts";
import type { ProfileTables } from "../profiles/store.ts";
import type { AppUserTable } from "../registration/store.ts";
import type { RequestIdTable } from "../sessions/request-ids.ts";
import type { VaultTables } from "../vault/store.ts";

/** All tables. Each feature declares the types of its own beside its store.ts; here they are only put together. */
export type Database = VaultTables &
  JournalTables &
  ProfileTables & {
    app_user: AppUserTable;
    credential: CredentialTable;
    profile_memory: ProfileMemoryTable;
    rate_limit: RateLimitTable;
    request_id: RequestIdTable;
    socket_ticket: SocketTicketTable;
  };
