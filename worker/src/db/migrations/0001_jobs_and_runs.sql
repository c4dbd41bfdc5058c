-- A job is a request; a run is one execution of it. Times are RFC 3339 in UTC.
CREATE TABLE jobs (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE,
    username        TEXT NOT NULL,
    image           TEXT NOT NULL,
    manifest        TEXT NOT NULL,
    filename        TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN
        ('pending', 'approved', 'running', 'completed', 'failed', 'rejected', 'cancelled')),
    -- The request as JSON, with scripts and environment; forgotten when the job has ended.
    spec            BLOB,
    limits          TEXT NOT NULL,
    network         TEXT NOT NULL,
    idempotency_key TEXT,
    -- SHA-256 of the request: tells a repeated request from another one under the same key.
    spec_sha256     TEXT NOT NULL,
    created_at      TEXT NOT NULL,
    ended_at        TEXT
) STRICT;

CREATE UNIQUE INDEX jobs_by_key ON jobs (username, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_by_user ON jobs (username, seq);
CREATE INDEX jobs_open ON jobs (state) WHERE state IN ('pending', 'approved', 'running');

CREATE TABLE runs (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id             TEXT NOT NULL,
    filename           TEXT NOT NULL,
    username           TEXT NOT NULL,
    image              TEXT NOT NULL,
    manifest           TEXT NOT NULL,
    network            TEXT NOT NULL,
    limits             TEXT NOT NULL,
    started_at         TEXT NOT NULL,
    duration_ms        INTEGER,
    exit_code          INTEGER,
    -- None while the run is open.
    cause              TEXT CHECK (cause IN
        ('exited', 'timeout', 'memory_exceeded', 'output_limit', 'cancelled', 'policy',
         'infrastructure')),
    message            TEXT,
    -- The first MiB; the whole output lies in the run's output file.
    stdout             BLOB NOT NULL DEFAULT x'',
    stderr             BLOB NOT NULL DEFAULT x'',
    stdout_truncated   INTEGER NOT NULL DEFAULT 0,
    stderr_truncated   INTEGER NOT NULL DEFAULT 0,
    memory_cache_hits  INTEGER NOT NULL DEFAULT 0,
    disk_cache_hits    INTEGER NOT NULL DEFAULT 0,
    server_fetches     INTEGER NOT NULL DEFAULT 0,
    memory_cache_bytes INTEGER NOT NULL DEFAULT 0,
    disk_cache_bytes   INTEGER NOT NULL DEFAULT 0,
    bytes_fetched      INTEGER NOT NULL DEFAULT 0,
    memory_peak_bytes  INTEGER,
    queued_ms          INTEGER NOT NULL DEFAULT 0,
    mount_ms           INTEGER NOT NULL DEFAULT 0,
    start_ms           INTEGER NOT NULL DEFAULT 0,
    first_output_ms    INTEGER
) STRICT;

CREATE INDEX runs_by_user ON runs (username, id);
CREATE INDEX runs_by_job ON runs (job_id);
