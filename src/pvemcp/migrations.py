"""How the schema of the database came about, step by step."""

MIGRATIONS = (
    """
    CREATE TABLE key (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE grants (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        hash BLOB NOT NULL UNIQUE,     -- SHA-256 of the secret; the secret itself is not kept
        ceiling TEXT NOT NULL,
        created REAL NOT NULL,         -- times are seconds since the epoch
        expires REAL,                  -- NULL: never
        last_used REAL,
        token_id TEXT,                 -- a PVE token of the grant's own, NULL: the configured one
        token_secret TEXT
    ) STRICT;
    CREATE TABLE calls (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        process TEXT NOT NULL,         -- which process runs it: PID/START
        time REAL NOT NULL,
        client TEXT NOT NULL,          -- the grant's name
        grant_id TEXT NOT NULL,
        address TEXT NOT NULL,
        mcp_client TEXT NOT NULL,      -- name and version that the client gave of itself
        tool TEXT NOT NULL,
        arguments TEXT NOT NULL,       -- JSON, redacted
        steps TEXT NOT NULL,           -- JSON
        outcome TEXT NOT NULL,         -- 'open' until the call is closed
        error TEXT NOT NULL,
        ms REAL NOT NULL
    ) STRICT;
    CREATE INDEX calls_time ON calls (time);
    CREATE INDEX calls_client ON calls (client, time);
    """,
    """
    ALTER TABLE grants ADD COLUMN origin TEXT NOT NULL DEFAULT 'here'; -- or 'cluster': shared
    """,
    """
    ALTER TABLE grants ADD COLUMN previous_hash BLOB;  -- the secret before the last rotation
    ALTER TABLE grants ADD COLUMN previous_until REAL; -- until when it holds
    """,
    """
    CREATE TABLE alerts (              -- what is wrong, and whether somebody was told
        key TEXT PRIMARY KEY,
        severity TEXT NOT NULL,
        title TEXT NOT NULL,
        text TEXT NOT NULL,
        since REAL NOT NULL,
        told REAL,
        gone REAL,
        passing INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    """,
    """
    CREATE TABLE approvals (           -- a plan that a person is asked about
        id TEXT PRIMARY KEY,
        digest BLOB NOT NULL,          -- of tool, arguments, writes and state of the targets
        grant_id TEXT NOT NULL,
        client TEXT NOT NULL,
        address TEXT NOT NULL,
        mcp_client TEXT NOT NULL,
        tool TEXT NOT NULL,
        arguments TEXT NOT NULL,       -- JSON, redacted
        call_id TEXT NOT NULL,         -- the call that asked
        plan TEXT NOT NULL,            -- JSON: text, writes
        created REAL NOT NULL,
        expires REAL NOT NULL,
        channel TEXT NOT NULL,         -- 'any', or 'person': not the client itself
        persons INTEGER NOT NULL,
        confirm TEXT NOT NULL,         -- what the person types, '' for nothing
        rule TEXT NOT NULL,
        state TEXT NOT NULL,           -- waiting, approved, denied, used, void
        used_by TEXT NOT NULL          -- the call that used it
    ) STRICT;
    CREATE INDEX approvals_grant ON approvals (grant_id, digest);
    CREATE TABLE decisions (
        approval TEXT NOT NULL,
        person TEXT NOT NULL,
        channel TEXT NOT NULL,         -- client, host, page
        verdict TEXT NOT NULL,         -- approve, deny
        reason TEXT NOT NULL,
        time REAL NOT NULL,
        PRIMARY KEY (approval, person)
    ) STRICT;
    """,
    """
    CREATE TABLE changes (             -- the journal: every change, and how it is taken back
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        call_id TEXT NOT NULL,
        process TEXT NOT NULL,
        time REAL NOT NULL,
        ended REAL,
        client TEXT NOT NULL,
        grant_id TEXT NOT NULL,
        pve_user TEXT NOT NULL,        -- the PVE token
        tool TEXT NOT NULL,
        verb TEXT NOT NULL,
        path TEXT NOT NULL,
        template TEXT NOT NULL,
        effect TEXT NOT NULL,
        node TEXT NOT NULL,
        shown TEXT NOT NULL,           -- JSON: parameters, redacted
        target TEXT NOT NULL,
        outcome TEXT NOT NULL,         -- open, running, done, failed, uncertain
        error TEXT NOT NULL,
        upid TEXT NOT NULL,
        undo TEXT NOT NULL,            -- in words
        undoes TEXT NOT NULL,          -- the change that it takes back
        undone_by TEXT NOT NULL,       -- the call that took it back
        sealed BLOB NOT NULL           -- parameters, states, recipe: JSON, encrypted
    ) STRICT;
    CREATE INDEX changes_time ON changes (time);
    CREATE INDEX changes_grant ON changes (grant_id, number);
    CREATE INDEX changes_call ON changes (call_id);
    """,
    """
    CREATE TABLE freezes (             -- who has stopped what
        client TEXT PRIMARY KEY,       -- a grant's name, '' for all
        mode TEXT NOT NULL,            -- read-only, all
        person TEXT NOT NULL,
        reason TEXT NOT NULL,
        since REAL NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE calls ADD COLUMN about TEXT NOT NULL DEFAULT '{}'; -- JSON: see audit.py
    CREATE TABLE chain (               -- append only: see chain.py
        number INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        time REAL NOT NULL,
        call INTEGER,                  -- number of a row of calls; NULL: an event
        body TEXT NOT NULL,            -- the row's digest, or the event as JSON
        mac BLOB NOT NULL
    ) STRICT;
    CREATE INDEX chain_call ON chain (call);
    CREATE TABLE chain_base (          -- what is left of the records that were deleted
        only INTEGER PRIMARY KEY CHECK (only = 1),
        number INTEGER NOT NULL,
        mac BLOB NOT NULL,
        through INTEGER NOT NULL,      -- all calls up to this number are deleted
        seal BLOB NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE commits (             -- changes that are taken back unless they are confirmed
        change TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        applied REAL NOT NULL,         -- 0: not yet
        until REAL NOT NULL,
        by_helper INTEGER NOT NULL,    -- else the service takes it back
        state TEXT NOT NULL            -- waiting, confirmed, reverted
    ) STRICT;
    """,
    """
    CREATE TABLE elevations (          -- whose ceiling a person has raised, until when
        grant_id TEXT PRIMARY KEY,
        client TEXT NOT NULL,          -- the grant's name
        base TEXT NOT NULL,            -- the ceiling to which it falls back
        effect TEXT NOT NULL,
        since REAL NOT NULL,
        until REAL NOT NULL,
        person TEXT NOT NULL,
        reason TEXT NOT NULL,
        approval TEXT NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE freezes RENAME TO own_freezes;
    CREATE TABLE freezes (             -- who has stopped what, here and on other nodes
        client TEXT NOT NULL,          -- a grant's name where it was made, '' for all
        origin TEXT NOT NULL,          -- the node that made it, '' for this one
        grant_id TEXT NOT NULL,        -- of the client that the cluster shares; '' if made here
        mode TEXT NOT NULL,            -- read-only, all
        person TEXT NOT NULL,
        reason TEXT NOT NULL,
        since REAL NOT NULL,
        released REAL,                 -- when root ended here what another node made
        PRIMARY KEY (client, origin)
    ) STRICT;
    INSERT INTO freezes SELECT client, '', '', mode, person, reason, since, NULL FROM own_freezes;
    DROP TABLE own_freezes;
    CREATE TABLE told (                -- which freezes of this node the others know
        node TEXT PRIMARY KEY,
        digest TEXT NOT NULL,          -- of the freezes that it knows
        released INTEGER NOT NULL,     -- how many of them its own root has ended there
        problem TEXT NOT NULL,         -- why it could not be told the last time
        since REAL NOT NULL            -- of the problem
    ) STRICT;
    """,
    """
    DROP INDEX calls_client;           -- every call paid for it, and nothing asked by it
    """,
)
"""Each brings the schema from the version of its index to the next. Append only."""
