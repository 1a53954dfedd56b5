"""The tables of the store, written once in the words that SQLite and PostgreSQL share.

`statements(dialect)` turns the text into either dialect. Migrations only add: a new table, or a column with a default
(`docs/decisions/0002-schema.md` tells why each table looks as it does). Names and units follow the house style:
`_at` is UTC epoch seconds, sizes are bytes.

What every reader may rely on:
* `account.mod_seq` is the last number given out; all rows that one transaction changes in an account share one.
* `account.next_id` numbers mailboxes, messages and threads of the account; a number is never used twice.
  `account.last_app_password_id` does so for app passwords, whose numbers people type.
* `placement.flags` is a 63-bit set: bits 0-4 are the system flags (`flags.py`), the others index `keyword`.
* `mailbox.name` and `account.local_part` are NULL once removed; the rows stay until the sweeper has emptied them.
"""

from typing import Final, Literal

Dialect = Literal["sqlite", "postgres"]

SCHEMA_VERSION: Final = 4
MIN_READER: Final = 1  # the oldest program that may read a store of this version
MIN_WRITER: Final = 4  # the oldest program that may write one: 3 knows no rights of others and no limits of messages

PAGE_SIZE_BYTES: Final = 8192  # two inline 4 kB messages a page; set once, before the first table

_TABLES: Final = """
CREATE TABLE meta (
  name TEXT NOT NULL PRIMARY KEY,
  number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE domain (
  id SERIAL,
  name TEXT NOT NULL UNIQUE,
  shown TEXT NOT NULL,
  catch_all TEXT,
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE account (
  id SERIAL,
  domain_id INTEGER NOT NULL REFERENCES domain (id),
  local_part TEXT,
  address TEXT NOT NULL,
  credential TEXT NOT NULL,
  credential_generation INTEGER NOT NULL DEFAULT 1,
  is_enabled INTEGER NOT NULL DEFAULT 1,
  quota_bytes INTEGER NOT NULL DEFAULT 0,
  used_bytes INTEGER NOT NULL DEFAULT 0,
  message_count INTEGER NOT NULL DEFAULT 0,
  mod_seq INTEGER NOT NULL DEFAULT 0,
  log_floor_mod_seq INTEGER NOT NULL DEFAULT 0,
  next_id INTEGER NOT NULL DEFAULT 1,
  next_uid_validity INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  removed_at INTEGER,
  UNIQUE (domain_id, local_part)
) STRICT;

CREATE TABLE alias (
  id SERIAL,
  domain_id INTEGER NOT NULL REFERENCES domain (id),
  local_part TEXT NOT NULL,
  address TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  UNIQUE (domain_id, local_part)
) STRICT;

CREATE TABLE alias_target (
  alias_id INTEGER NOT NULL REFERENCES alias (id),
  target TEXT NOT NULL,
  PRIMARY KEY (alias_id, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE keyword (
  account_id INTEGER NOT NULL,
  bit INTEGER NOT NULL,
  name TEXT NOT NULL,
  folded TEXT NOT NULL,
  PRIMARY KEY (account_id, bit),
  UNIQUE (account_id, folded)
) STRICT, WITHOUT ROWID;

CREATE TABLE mailbox (
  account_id INTEGER NOT NULL,
  id INTEGER NOT NULL,
  parent_id INTEGER NOT NULL,
  name TEXT,
  role TEXT,
  uid_validity INTEGER NOT NULL,
  uid_next INTEGER NOT NULL DEFAULT 1,
  recent_uid INTEGER NOT NULL DEFAULT 1,
  message_count INTEGER NOT NULL DEFAULT 0,
  unseen_count INTEGER NOT NULL DEFAULT 0,
  deleted_count INTEGER NOT NULL DEFAULT 0,
  total_bytes INTEGER NOT NULL DEFAULT 0,
  mod_seq INTEGER NOT NULL,
  counts_mod_seq INTEGER NOT NULL,
  created_mod_seq INTEGER NOT NULL,
  is_seen_common INTEGER NOT NULL DEFAULT 0,
  removed_at INTEGER,
  PRIMARY KEY (account_id, id),
  UNIQUE (account_id, parent_id, name),
  UNIQUE (account_id, role)
) STRICT, WITHOUT ROWID;

CREATE TABLE subscription (
  account_id INTEGER NOT NULL,
  path TEXT NOT NULL,
  PRIMARY KEY (account_id, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE blob (
  id SERIAL,
  codec INTEGER NOT NULL,
  dict_id INTEGER NOT NULL DEFAULT 0,
  key_id INTEGER NOT NULL DEFAULT 0,
  size INTEGER NOT NULL,
  stored_size INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  file TEXT,
  created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX blob_file ON blob (file) WHERE file IS NOT NULL;

CREATE TABLE blob_inline (
  blob_id ROWKEY,
  bytes BLOB NOT NULL
) STRICT;

CREATE TABLE message (
  account_id INTEGER NOT NULL,
  id INTEGER NOT NULL,
  blob_id INTEGER NOT NULL,
  size INTEGER NOT NULL,
  header_size INTEGER NOT NULL,
  thread_id INTEGER NOT NULL,
  received_at INTEGER NOT NULL,
  sent_at INTEGER,
  sent_day INTEGER,
  created_mod_seq INTEGER NOT NULL,
  derived_version INTEGER NOT NULL,
  base_subject TEXT NOT NULL,
  from_key TEXT NOT NULL,
  to_key TEXT NOT NULL,
  cc_key TEXT NOT NULL,
  preview TEXT NOT NULL,
  envelope BLOB NOT NULL,
  body_structure BLOB NOT NULL,
  header_core BLOB NOT NULL,
  PRIMARY KEY (account_id, id)
) STRICT;
CREATE INDEX message_blob ON message (blob_id);
CREATE INDEX message_thread ON message (account_id, thread_id);

CREATE TABLE message_ref (
  account_id INTEGER NOT NULL,
  ref_hash INTEGER NOT NULL,
  subject_hash INTEGER NOT NULL,
  thread_id INTEGER NOT NULL,
  PRIMARY KEY (account_id, ref_hash, subject_hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE placement (
  account_id INTEGER NOT NULL,
  mailbox_id INTEGER NOT NULL,
  uid INTEGER NOT NULL,
  message_id INTEGER NOT NULL,
  flags INTEGER NOT NULL,
  size INTEGER NOT NULL,
  internal_date INTEGER NOT NULL,
  zone_minutes INTEGER NOT NULL,
  saved_at INTEGER NOT NULL,
  mod_seq INTEGER NOT NULL,
  created_mod_seq INTEGER NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX placement_message ON placement (account_id, message_id);

CREATE TABLE placement_keyword (
  account_id INTEGER NOT NULL,
  mailbox_id INTEGER NOT NULL,
  uid INTEGER NOT NULL,
  keyword TEXT NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, uid, keyword)
) STRICT, WITHOUT ROWID;

CREATE TABLE reader_seen (
  account_id INTEGER NOT NULL,
  mailbox_id INTEGER NOT NULL,
  reader_id INTEGER NOT NULL,
  uid INTEGER NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, reader_id, uid)
) STRICT, WITHOUT ROWID;

CREATE TABLE removed (
  account_id INTEGER NOT NULL,
  mailbox_id INTEGER NOT NULL,
  uid INTEGER NOT NULL,
  message_id INTEGER NOT NULL,
  flags INTEGER NOT NULL,
  size INTEGER NOT NULL,
  internal_date INTEGER NOT NULL,
  zone_minutes INTEGER NOT NULL,
  saved_at INTEGER NOT NULL,
  mod_seq INTEGER NOT NULL,
  created_mod_seq INTEGER NOT NULL,
  removed_at INTEGER NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX removed_message ON removed (account_id, message_id);
CREATE INDEX removed_time ON removed (account_id, removed_at);

CREATE TABLE change (
  account_id INTEGER NOT NULL,
  mod_seq INTEGER NOT NULL,
  mailbox_id INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  uids TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (account_id, mod_seq, mailbox_id, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE lease (
  name TEXT NOT NULL PRIMARY KEY,
  holder TEXT NOT NULL,
  fence INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE task (
  id SERIAL,
  kind TEXT NOT NULL,
  account_id INTEGER NOT NULL,
  mailbox_id INTEGER NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
"""

# By the version that brought them: what a store of the version before lacks.
_ADDED: Final = {
    2: """
ALTER TABLE account ADD COLUMN last_app_password_id INTEGER NOT NULL DEFAULT 0;

CREATE TABLE app_password (
  account_id INTEGER NOT NULL,
  id INTEGER NOT NULL,
  label TEXT NOT NULL,
  scope TEXT NOT NULL,
  digest TEXT NOT NULL,
  stored_keys BLOB NOT NULL,
  server_keys BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  used_at INTEGER,
  PRIMARY KEY (account_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE secret (
  name TEXT NOT NULL PRIMARY KEY,
  bytes BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sign_in_failure (
  who TEXT NOT NULL,
  network TEXT NOT NULL,
  last_at INTEGER NOT NULL,
  clear_at INTEGER NOT NULL,
  PRIMARY KEY (who, network)
) STRICT, WITHOUT ROWID;
CREATE INDEX sign_in_failure_clear ON sign_in_failure (clear_at);

CREATE TABLE sign_in_success (
  account_id INTEGER NOT NULL,
  address TEXT NOT NULL,
  last_at INTEGER NOT NULL,
  PRIMARY KEY (account_id, address)
) STRICT, WITHOUT ROWID;
""",
    3: """
ALTER TABLE account ADD COLUMN sending_stopped TEXT;

CREATE TABLE dkim_key (
  id SERIAL,
  domain_id INTEGER NOT NULL REFERENCES domain (id),
  selector TEXT NOT NULL,
  algorithm TEXT NOT NULL,
  private_key BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  signs_from INTEGER,
  retired_at INTEGER,
  UNIQUE (domain_id, selector)
) STRICT;

CREATE TABLE outgoing (
  id SERIAL,
  trail_id INTEGER NOT NULL,
  blob_id INTEGER NOT NULL,
  account_id INTEGER NOT NULL,
  origin TEXT NOT NULL,
  reverse_path TEXT NOT NULL,
  report_to TEXT NOT NULL,
  envelope_id TEXT,
  returns TEXT,
  body TEXT NOT NULL,
  is_smtputf8 INTEGER NOT NULL,
  requires_tls INTEGER NOT NULL,
  may_bounce INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  deliver_by_at INTEGER,
  deliver_by_mode TEXT,
  size INTEGER NOT NULL,
  header_size INTEGER NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX outgoing_blob ON outgoing (blob_id);
CREATE INDEX outgoing_trail ON outgoing (trail_id);

CREATE TABLE outgoing_recipient (
  outgoing_id INTEGER NOT NULL,
  n INTEGER NOT NULL,
  destination TEXT NOT NULL,
  account_id INTEGER NOT NULL,
  address TEXT NOT NULL,
  original TEXT,
  notify INTEGER NOT NULL,
  state INTEGER NOT NULL,
  report INTEGER NOT NULL,
  delay_told INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  next_at INTEGER NOT NULL,
  last_at INTEGER,
  last_host TEXT,
  last_reply TEXT,
  PRIMARY KEY (outgoing_id, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX outgoing_due ON outgoing_recipient (destination, account_id, next_at) WHERE state = 0;
CREATE INDEX outgoing_next ON outgoing_recipient (destination, next_at) WHERE state = 0;
CREATE INDEX outgoing_claimed ON outgoing_recipient (outgoing_id) WHERE state = 1;
CREATE INDEX outgoing_report ON outgoing_recipient (outgoing_id) WHERE report > 0;

CREATE TABLE destination (
  name TEXT NOT NULL PRIMARY KEY,
  shard INTEGER NOT NULL,
  next_at INTEGER NOT NULL,
  not_before INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  last_at INTEGER,
  last_host TEXT,
  last_reply TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX destination_due ON destination (next_at);

CREATE TABLE trail (
  id SERIAL,
  name TEXT NOT NULL,
  message_id TEXT NOT NULL,
  message_id_hash INTEGER NOT NULL,
  sender TEXT NOT NULL,
  at INTEGER NOT NULL,
  address_hashes TEXT NOT NULL,
  facts TEXT NOT NULL
) STRICT;
CREATE INDEX trail_message_id ON trail (message_id_hash);
CREATE INDEX trail_time ON trail (at);

CREATE TABLE trail_address (
  address_hash INTEGER NOT NULL,
  trail_id INTEGER NOT NULL,
  PRIMARY KEY (address_hash, trail_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE trail_step (
  id SERIAL,
  trail_id INTEGER NOT NULL,
  at INTEGER NOT NULL,
  kind TEXT NOT NULL,
  recipient TEXT NOT NULL,
  facts TEXT NOT NULL
) STRICT;
CREATE INDEX trail_step_trail ON trail_step (trail_id);

CREATE TABLE sending (
  account_id INTEGER NOT NULL,
  hour INTEGER NOT NULL,
  messages INTEGER NOT NULL,
  recipients INTEGER NOT NULL,
  strangers INTEGER NOT NULL,
  PRIMARY KEY (account_id, hour)
) STRICT, WITHOUT ROWID;

CREATE TABLE correspondent (
  account_id INTEGER NOT NULL,
  address_hash INTEGER NOT NULL,
  first_at INTEGER NOT NULL,
  PRIMARY KEY (account_id, address_hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE greylist (
  triplet_hash INTEGER NOT NULL PRIMARY KEY,
  first_at INTEGER NOT NULL,
  last_at INTEGER NOT NULL,
  passed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX greylist_last ON greylist (last_at);
CREATE INDEX greylist_waiting ON greylist (last_at) WHERE passed = 0;
""",
    4: """
ALTER TABLE account ADD COLUMN quota_messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN quota_mailboxes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN is_shared INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mailbox ADD COLUMN is_noselect INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN refs BLOB;

CREATE TABLE mailbox_right (
  account_id INTEGER NOT NULL,
  mailbox_id INTEGER NOT NULL,
  reader_id INTEGER NOT NULL,
  granted TEXT NOT NULL,
  denied TEXT NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, reader_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX mailbox_right_reader ON mailbox_right (reader_id);
CREATE INDEX reader_seen_reader ON reader_seen (reader_id);

CREATE TABLE annotation (
  account_id INTEGER NOT NULL,
  mailbox_id INTEGER NOT NULL,
  reader_id INTEGER NOT NULL,
  entry TEXT NOT NULL,
  value BLOB NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, reader_id, entry)
) STRICT, WITHOUT ROWID;
CREATE INDEX annotation_reader ON annotation (reader_id) WHERE reader_id > 0;
""",
}

_WORDS: Final[dict[Dialect, tuple[tuple[str, str], ...]]] = {
    "sqlite": (
        (" SERIAL", " INTEGER PRIMARY KEY AUTOINCREMENT"),
        (" ROWKEY,", " INTEGER PRIMARY KEY,"),
    ),
    "postgres": (
        (" INTEGER", " BIGINT"),
        (" SERIAL", " BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
        (" ROWKEY,", " BIGINT PRIMARY KEY,"),
        (" BLOB", " BYTEA"),
        (" STRICT, WITHOUT ROWID", ""),
        (" STRICT", ""),
    ),
}


def statements(dialect: Dialect) -> list[str]:
    """The statements that make an empty store of the newest version, in order, without semicolons."""
    return _translated(_TABLES + "".join(_ADDED.values()), dialect)


def additions(dialect: Dialect, version: int) -> list[str]:
    """The statements that make a store of `version` one of the newest."""
    return _translated("".join(text for since, text in _ADDED.items() if since > version), dialect)


def _translated(text: str, dialect: Dialect) -> list[str]:
    for ours, theirs in _WORDS[dialect]:
        text = text.replace(ours, theirs)
    return [part.strip() for part in text.split(";") if part.strip()]


def table_names() -> list[str]:
    """Every table, in the order of creation."""
    text = _TABLES + "".join(_ADDED.values())
    return [line.split()[2] for line in text.splitlines() if line.startswith("CREATE TABLE")]
