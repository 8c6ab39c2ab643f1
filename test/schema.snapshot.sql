-- The schema after all migrations. Not written by hand: UPDATE_SCHEMA=1 npm test -- test/api/db-schema.test.ts

table app_user (
  deregistered_at timestamp with time zone
  email text
  id uuid not null
  issuer text
  registered_at timestamp with time zone not null default now()
  subject text
  constraint app_user_identity_check CHECK (
CASE
    WHEN (deregistered_at IS NULL) THEN ((issuer IS NOT NULL) AND (subject IS NOT NULL))
    ELSE ((issuer IS NULL) AND (subject IS NULL) AND (email IS NULL))
END)
  constraint app_user_issuer_subject_key UNIQUE (issuer, subject)
  constraint app_user_pkey PRIMARY KEY (id)
)
CREATE INDEX app_user_deregistered ON public.app_user USING btree (deregistered_at) WHERE (deregistered_at IS NOT NULL)

table command (
  id integer not null
  payload bytea not null
  session_id text not null
  constraint command_id_check CHECK ((id > 0))
  constraint command_pkey PRIMARY KEY (session_id, id)
  constraint command_session_id_fkey FOREIGN KEY (session_id) REFERENCES session(id)
)

table credential (
  created_at timestamp with time zone not null default now()
  envelope bytea not null
  generation integer not null
  kind text not null
  user_id uuid not null
  constraint credential_generation_check CHECK ((generation > 0))
  constraint credential_kind_check CHECK ((kind = ANY (ARRAY['api_key'::text, 'oauth_token'::text])))
  constraint credential_pkey PRIMARY KEY (user_id)
  constraint credential_user_id_fkey FOREIGN KEY (user_id) REFERENCES app_user(id)
)

table default_profile (
  owner_id uuid not null
  profile_id text not null
  constraint default_profile_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES app_user(id)
  constraint default_profile_owner_id_profile_id_fkey FOREIGN KEY (owner_id, profile_id) REFERENCES profile(owner_id, id)
  constraint default_profile_pkey PRIMARY KEY (owner_id)
)

table event (
  chain bytea not null
  created_at timestamp with time zone not null
  epoch integer not null
  payload bytea not null
  runner_seq integer
  seq integer not null
  session_id text not null
  turn integer not null
  constraint event_pkey PRIMARY KEY (session_id, seq)
  constraint event_seq_check CHECK ((seq > 0))
  constraint event_session_id_epoch_runner_seq_key UNIQUE (session_id, epoch, runner_seq)
  constraint event_session_id_fkey FOREIGN KEY (session_id) REFERENCES session(id)
)

table kek_canary (
  created_at timestamp with time zone not null default now()
  envelope bytea not null
  kid text not null
  state text not null
  constraint kek_canary_pkey PRIMARY KEY (kid)
  constraint kek_canary_state_check CHECK ((state = ANY (ARRAY['active'::text, 'retired'::text])))
)

table pause (
  answer bytea
  answered_by text
  carried boolean not null default false
  created_at timestamp with time zone not null default now()
  decision bytea
  epoch integer not null
  id text not null
  kind text not null
  outcome text
  request bytea not null
  seq integer not null
  session_id text not null
  constraint pause_kind_check CHECK ((kind = ANY (ARRAY['approval'::text, 'question'::text])))
  constraint pause_pkey PRIMARY KEY (session_id, id)
  constraint pause_session_id_fkey FOREIGN KEY (session_id) REFERENCES session(id)
)
CREATE INDEX pause_open ON public.pause USING btree (session_id) WHERE (outcome IS NULL)

table profile (
  allowed_hosts text[] not null
  allowed_tools text[] not null
  created_at timestamp with time zone not null default now()
  denied_tools text[] not null
  description text not null
  environment bytea
  generation integer not null
  id text not null
  max_budget_micros bigint
  max_turns integer
  mcp_servers bytea
  model text not null
  name text not null
  one_shot boolean not null
  owner_id uuid not null
  permission_mode text not null
  ttl_seconds integer
  updated_at timestamp with time zone not null default now()
  constraint profile_generation_check CHECK ((generation > 0))
  constraint profile_max_budget_micros_check CHECK ((max_budget_micros > 0))
  constraint profile_max_turns_check CHECK ((max_turns > 0))
  constraint profile_name_check CHECK ((name <> ''::text))
  constraint profile_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES app_user(id)
  constraint profile_owner_id_id_key UNIQUE (owner_id, id)
  constraint profile_owner_id_name_key UNIQUE (owner_id, name)
  constraint profile_permission_mode_check CHECK ((permission_mode = ANY (ARRAY['acceptEdits'::text, 'plan'::text, 'bypassPermissions'::text])))
  constraint profile_pkey PRIMARY KEY (id)
  constraint profile_ttl_seconds_check CHECK (((ttl_seconds >= 1) AND (ttl_seconds <= 86400)))
)

table profile_memory (
  content bytea not null
  created_at timestamp with time zone not null default now()
  digest bytea not null
  generation integer not null
  path text not null
  profile_id text not null
  size integer not null
  updated_at timestamp with time zone not null default now()
  constraint profile_memory_generation_check CHECK ((generation > 0))
  constraint profile_memory_path_check CHECK ((path <> ''::text))
  constraint profile_memory_pkey PRIMARY KEY (profile_id, path)
  constraint profile_memory_profile_id_fkey FOREIGN KEY (profile_id) REFERENCES profile(id) ON DELETE CASCADE
  constraint profile_memory_size_check CHECK ((size >= 0))
)

table queued_prompt (
  canceled_seq integer
  seq integer not null
  session_id text not null
  constraint queued_prompt_pkey PRIMARY KEY (session_id, seq)
  constraint queued_prompt_session_id_fkey FOREIGN KEY (session_id) REFERENCES session(id)
)

table rate_limit (
  kind text not null
  subject text not null
  taken timestamp with time zone[] not null
  constraint rate_limit_pkey PRIMARY KEY (kind, subject)
  constraint rate_limit_taken_check CHECK ((cardinality(taken) > 0))
)

table request_id (
  created_at timestamp with time zone not null default now()
  method text not null
  owner_id uuid not null
  parameters bytea not null
  request_id text not null
  response bytea not null
  constraint request_id_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES app_user(id)
  constraint request_id_pkey PRIMARY KEY (owner_id, method, request_id)
)
CREATE INDEX request_id_age ON public.request_id USING btree (created_at)

table session (
  acked_command_id integer not null default 0
  active_at timestamp with time zone not null default now()
  allowed_hosts text[] not null default '{}'::text[]
  allowed_tools text[] not null
  attach_hash bytea
  box text
  chain bytea not null
  created_at timestamp with time zone not null default now()
  denied_tools text[] not null
  desired text not null
  end_reason text
  ends_at timestamp with time zone
  epoch integer not null default 0
  error_message bytea
  exit_code integer
  failing_since timestamp with time zone
  failures integer not null default 0
  forked_at_seq integer
  forked_from text
  handle jsonb
  host text not null default ''::text
  id text not null
  initial_prompt bytea
  last_command_id integer not null default 0
  last_runner_seq integer not null default 0
  last_seq integer not null default 0
  lease_hash bytea
  lease_until timestamp with time zone
  life_left_ms bigint
  max_budget_micros bigint
  max_turns integer
  model text not null
  model_requests integer not null default 0
  name text not null
  num_turns integer not null default 0
  one_shot boolean not null default false
  owner_id uuid not null
  parked_at timestamp with time zone
  pending_count integer not null default 0
  permission_mode text not null
  phantom_hash bytea
  profile_id text not null default ''::text
  queued_prompts integer not null default 0
  restarts integer not null default 0
  restarts_since timestamp with time zone
  restoring boolean not null default false
  retry_at timestamp with time zone
  sdk_session_id text
  session_patterns text[] not null default '{}'::text[]
  settings bytea
  snapshot_at timestamp with time zone
  snapshot_generation integer
  start_marks jsonb
  started_at timestamp with time zone
  state text not null
  state_since timestamp with time zone not null default now()
  terminated_at timestamp with time zone
  ttl_seconds integer
  turn integer not null default 0
  turn_acted boolean not null default false
  turn_started_at timestamp with time zone
  turn_usage jsonb not null
  usage jsonb not null
  constraint session_attach_hash_key UNIQUE (attach_hash)
  constraint session_box_key UNIQUE (box)
  constraint session_check CHECK (((state = 'ended'::text) = (terminated_at IS NOT NULL)))
  constraint session_desired_check CHECK ((desired = ANY (ARRAY['run'::text, 'hibernate'::text, 'end'::text, 'erase'::text])))
  constraint session_dormant_check CHECK (((state <> 'dormant'::text) OR (snapshot_generation IS NOT NULL)))
  constraint session_end_reason_check CHECK (((end_reason IS NULL) OR (desired = ANY (ARRAY['end'::text, 'erase'::text]))))
  constraint session_lease_hash_key UNIQUE (lease_hash)
  constraint session_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES app_user(id)
  constraint session_phantom_hash_key UNIQUE (phantom_hash)
  constraint session_pkey PRIMARY KEY (id)
  constraint session_state_check CHECK ((state = ANY (ARRAY['requested'::text, 'starting'::text, 'running'::text, 'hibernating'::text, 'dormant'::text, 'ending'::text, 'ended'::text])))
)
CREATE INDEX session_alive ON public.session USING btree (state) WHERE (state <> 'ended'::text)
CREATE INDEX session_by_owner ON public.session USING btree (owner_id, id DESC)
CREATE INDEX session_erased ON public.session USING btree (host) WHERE (desired = 'erase'::text)

table snapshot (
  archive text not null
  base_generation integer
  bytes bigint not null
  conversation text not null
  created_at timestamp with time zone not null default now()
  digest bytea not null
  epoch integer not null
  generation integer not null
  seq integer not null
  session_id text not null
  constraint snapshot_archive_key UNIQUE (archive)
  constraint snapshot_base_check CHECK ((base_generation < generation))
  constraint snapshot_base_fkey FOREIGN KEY (session_id, base_generation) REFERENCES snapshot(session_id, generation)
  constraint snapshot_generation_check CHECK ((generation > 0))
  constraint snapshot_pkey PRIMARY KEY (session_id, generation)
  constraint snapshot_session_id_fkey FOREIGN KEY (session_id) REFERENCES session(id)
)

table socket_ticket (
  email text
  expires_at timestamp with time zone not null
  hash bytea not null
  session_id text not null
  token_expires_at timestamp with time zone not null
  user_id uuid not null
  constraint socket_ticket_pkey PRIMARY KEY (hash)
  constraint socket_ticket_session_id_fkey FOREIGN KEY (session_id) REFERENCES session(id) ON DELETE CASCADE
  constraint socket_ticket_user_id_fkey FOREIGN KEY (user_id) REFERENCES app_user(id) ON DELETE CASCADE
)
CREATE INDEX socket_ticket_age ON public.socket_ticket USING btree (expires_at)

table user_key (
  created_at timestamp with time zone not null default now()
  destroyed_at timestamp with time zone
  kid text not null
  state text not null
  user_id uuid not null
  version integer not null
  wrapped bytea not null
  constraint user_key_pkey PRIMARY KEY (user_id, version)
  constraint user_key_state_check CHECK ((state = ANY (ARRAY['active'::text, 'decrypt_only'::text, 'destroyed'::text])))
  constraint user_key_user_id_fkey FOREIGN KEY (user_id) REFERENCES app_user(id)
  constraint user_key_version_check CHECK ((version > 0))
)
CREATE UNIQUE INDEX user_key_one_active ON public.user_key USING btree (user_id) WHERE (state = 'active'::text)
